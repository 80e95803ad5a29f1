"""The best eager PyTorch form of each operation that we can write: what ours is measured against, also compiled.

Not the oracles: those are written to be read. Each has the arguments of the operation it stands for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def bilateral_propagation(x: Tensor, gate: Tensor, *, sigma: float = 1.5) -> Tensor:
    """The spatial term as two products with a banded matrix, the range term as nine shifted products."""
    height, width = x.shape[2:]
    v = x * gate[:, :, None, None]
    spatial = _matrix(height, sigma, x) @ v @ _matrix(width, sigma, x).T
    padded, squashed = F.pad(v, (1, 1, 1, 1)), F.pad(torch.sigmoid(v), (1, 1, 1, 1))
    shifts = [(slice(i, i + height), slice(j, j + width)) for i in range(3) for j in range(3)]
    centre = squashed[:, :, 1:-1, 1:-1]
    similarity = torch.stack([(centre * squashed[:, :, a, b]).mean(1) for a, b in shifts], 1)
    share = torch.softmax(similarity, 1)
    ranged = sum(share[:, k, None] * padded[:, :, a, b] for k, (a, b) in enumerate(shifts))
    return torch.cat([spatial, ranged], 1)  # type: ignore[list-item]


def _matrix(size: int, sigma: float, like: Tensor) -> Tensor:
    position = torch.arange(size, device=like.device, dtype=like.dtype)
    distance = position[:, None] - position
    weight = torch.exp(-(distance**2) / (2 * sigma**2)) * (distance.abs() <= math.ceil(5 * sigma))
    return weight / weight.sum(1, keepdim=True)


def local_fusion(base: Tensor, references: Tensor, weights: Tensor, positions: Tensor) -> Tensor:
    """The similarity of all positions by one batched product, then gather and scatter."""
    return fuse_matches(base, references, weights, positions, find_matches(base, references, positions))


@torch.no_grad()
def find_matches(base: Tensor, references: Tensor, positions: Tensor) -> Tensor:
    """The most similar position of each reference, (B,R,M)."""
    selected = base.flatten(2).gather(2, positions[:, None].expand(-1, base.shape[1], -1))
    unit = F.normalize(references.flatten(3), dim=2, eps=1e-12)
    return (selected.transpose(1, 2)[:, None] @ unit).argmax(-1)


def fuse_matches(base: Tensor, references: Tensor, weights: Tensor, positions: Tensor, matches: Tensor) -> Tensor:
    """Local fusion, given its matches."""
    channels = base.shape[1]
    features, candidates = base.flatten(2), references.flatten(3)
    index = positions[:, None].expand(-1, channels, -1)
    selected = features.gather(2, index)
    gathered = candidates.gather(3, matches[:, :, None].expand(-1, -1, channels, -1))
    blend = weights[:, :1, None] * selected + (weights[:, 1:, None, None] * gathered).sum(1)
    return features.scatter(2, index, blend).view_as(base)


def skip_decoder_block(
    x: Tensor, skip: Tensor, weight: Tensor, bias: Tensor, norm_weight: Tensor, norm_bias: Tensor
) -> Tensor:
    """The published form: concatenate, upsample, pad, convolve, normalise, activate."""
    joined = F.interpolate(torch.cat([x, skip], 1), scale_factor=2)
    y = F.conv2d(F.pad(joined, (1, 1, 1, 1), mode="reflect"), weight, bias)
    return F.leaky_relu(F.batch_norm(y, None, None, norm_weight, norm_bias, training=True), 0.2)


def modulated_norm(x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    """The published chain by torch's faster instance norm, a group norm of as many groups, in place at its end."""
    normalized = F.group_norm(x, x.shape[1])
    return F.leaky_relu_((normalized * (1 + gamma)).add_(beta), 0.2)


def activated_conv2d(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The published chain of activation, padding and convolution."""
    return F.conv2d(F.pad(F.leaky_relu(x, 0.2), (1, 1, 1, 1), mode="reflect"), weight, bias)


def layout_conv2d(labels: Tensor, weight: Tensor, bias: Tensor, *, stride: int) -> Tensor:
    """The published form: a convolution of the one-hot layout."""
    x = weight.new_zeros(labels.shape[0], weight.shape[1], *labels.shape[1:]).scatter_(1, labels[:, None], 1)
    return F.leaky_relu(F.conv2d(x, weight, bias, stride, 1), 0.2)


def layout_embedding_bag(labels: Tensor, weight: Tensor, bias: Tensor, *, stride: int) -> Tensor:
    """The same as sums of rows of an embedding: one for each class and tap, and for each tap one of zeros."""
    channels, classes, *kernel = weight.shape
    taps = kernel[0] * kernel[1]
    table = F.pad(weight.permute(2, 3, 1, 0).reshape(taps, classes, channels), (0, 0, 0, 1)).flatten(0, 1)
    windows = F.pad(labels, (1, 1, 1, 1), value=classes).unfold(1, kernel[0], stride).unfold(2, kernel[1], stride)
    rows = windows.reshape(-1, taps) + torch.arange(taps) * (classes + 1)
    y: Tensor = F.embedding_bag(rows, table, mode="sum") + bias
    return F.leaky_relu(y.view(*windows.shape[:3], channels).permute(0, 3, 1, 2), 0.2)


def similarity_loss(probabilities: Tensor, labels: Tensor) -> Tensor:
    """All pairs of pixels at once."""
    p = probabilities.flatten(2)
    return _agreement(p, p, labels.flatten(1), labels.flatten(1)).mean()


def similarity_loss_in_chunks(probabilities: Tensor, labels: Tensor, *, rows: int = 512) -> Tensor:
    """``rows`` rows of the pairs at a time, each computed again for its backward."""
    p, flat = probabilities.flatten(2), labels.flatten(1)

    def chunk(some: Tensor, of_some: Tensor, p: Tensor) -> Tensor:
        return _agreement(some, p, of_some, flat).sum()

    parts = zip(p.split(rows, 2), flat.split(rows, 1), strict=True)
    total: Tensor = sum(checkpoint(chunk, some, of_some, p, use_reentrant=False) for some, of_some in parts)
    return total / (flat.shape[0] * flat.shape[1] ** 2)


def _agreement(p: Tensor, q: Tensor, of_p: Tensor, of_q: Tensor) -> Tensor:
    """The cross entropy of pairs; the clamp of x bounds 1 − x alike."""
    x = p.transpose(1, 2) @ q
    return -torch.where(of_p[:, :, None] == of_q[:, None], x, 1 - x).clamp(1e-6, 1 - 1e-6).log()


def contrastive_loss(
    queries: Tensor, query_labels: Tensor, keys: Tensor | None = None, key_labels: Tensor | None = None
) -> Tensor:
    """Per-positive InfoNCE with the whole similarity matrix, as pixel-contrast code writes it."""
    q = F.normalize(queries, dim=1)
    k = q if keys is None else F.normalize(keys, dim=1)
    equal = query_labels[:, None] == (query_labels if key_labels is None else key_labels)
    positive = equal & ~torch.eye(len(q), dtype=torch.bool, device=q.device) if keys is None else equal
    return _contrast(q, k, equal, positive) / (positive.sum(1) > 0).sum()


def contrastive_loss_in_chunks(queries: Tensor, labels: Tensor, *, rows: int = 1024) -> Tensor:
    """Self-contrast with ``rows`` rows of the matrix at a time, each computed again for its backward."""
    q = F.normalize(queries, dim=1)
    place = torch.arange(len(q), device=q.device)

    def chunk(q: Tensor, here: Tensor) -> Tensor:
        equal = labels[here][:, None] == labels
        return _contrast(q[here], q, equal, equal & (here[:, None] != place))

    total: Tensor = sum(checkpoint(chunk, q, here, use_reentrant=False) for here in place.split(rows))
    counts = labels.unique(return_counts=True)[1]
    return total / counts[counts > 1].sum()


def _contrast(q: Tensor, k: Tensor, equal: Tensor, positive: Tensor) -> Tensor:
    """The sum of the rows' losses."""
    s = q @ k.T / 0.1
    boundary = s.masked_fill(equal, -torch.inf).logsumexp(1, keepdim=True)
    return ((F.softplus(boundary - s) * positive).sum(1) / positive.sum(1).clamp_min(1)).sum()


def equalization_consistency_loss(equalized: Sequence[Tensor], decoded: Sequence[Tensor]) -> Tensor:
    """One cosine similarity per scale."""
    values = [1 - F.cosine_similarity(e, d, dim=1).mean() for e, d in zip(equalized, decoded, strict=True)]
    return torch.stack(values).sum()


def equalization_fusion(
    structure: Tensor,
    texture: Tensor,
    fuse_weight: Tensor,
    fuse_bias: Tensor,
    reduce_weight: Tensor,
    reduce_bias: Tensor,
    expand_weight: Tensor,
    expand_bias: Tensor,
    out_weight: Tensor,
) -> Tensor:
    """The layers of the module one after another."""
    x = F.conv2d(torch.cat([structure, texture], 1), fuse_weight, fuse_bias)
    x = F.leaky_relu(F.instance_norm(x), 0.2)
    gate = F.relu(F.conv2d(x.mean((2, 3), keepdim=True), reduce_weight, reduce_bias))
    gate = torch.sigmoid(F.conv2d(gate, expand_weight, expand_bias))[:, :, 0, 0]
    y = F.conv2d(bilateral_propagation(x, gate), out_weight)
    return F.leaky_relu(F.instance_norm(y), 0.2)
