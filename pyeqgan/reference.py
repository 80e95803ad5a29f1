"""The oracle: every operation of the library in plain, differentiable PyTorch.

Same names, arguments and results as :mod:`pyeqgan.functional`, any floating dtype, gradients of any order,
no regard for speed or memory. It defines what a kernel must compute; it checks no arguments (the contract in
:mod:`pyeqgan.ops` does). Statistics, softmax, log-sum-exp and accumulation run in float32 for half-precision
input and in the input's own precision otherwise; image outputs are cast back to the input's dtype and keep its
memory format, losses stay in the accumulation dtype.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype sums are kept in: float64 for float64, float32 for everything narrower."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def activate(x: Tensor, activation: str | None, negative_slope: float) -> Tensor:
    """Apply one of the activations the fused operations know: None, "relu", "leaky_relu", "tanh"."""
    if activation is None:
        return x
    if activation == "relu":
        return F.relu(x)
    if activation == "tanh":
        return torch.tanh(x)
    return F.leaky_relu(x, negative_slope)


# --- fusion -------------------------------------------------------------------------------------------------


def local_fusion(base: Tensor, references: Tensor, weights: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Few-shot local fusion (LoFGAN, ICCV 2021). See :func:`pyeqgan.functional.local_fusion`."""
    dtype = accumulation_dtype(base.dtype)
    channels, count = base.shape[1], positions.shape[1]
    features = base.flatten(2).to(dtype)
    candidates = references.flatten(3).to(dtype)
    index = positions[:, None].expand(-1, channels, -1)
    selected = features.gather(2, index)
    with torch.no_grad():
        unit = candidates / candidates.norm(dim=2, keepdim=True).clamp_min(1e-12)
        similarity = torch.einsum("bcm,brcn->brmn", selected, unit)
        shape = (*similarity.shape[:2], count)
        matches = similarity.argmax(-1) if similarity.numel() else similarity.new_zeros(shape, dtype=torch.long)
    gathered = candidates.gather(3, matches[:, :, None].expand(-1, -1, channels, -1))
    share = weights.to(dtype)
    blend = share[:, :1, None] * selected + (share[:, 1:, None, None] * gathered).sum(1)
    fused = features.scatter(2, index, blend).view(base.shape)
    return fused.to(base.dtype), matches


def lifted_fusion(
    base: Tensor,
    references: Tensor,
    weights: Tensor,
    positions: Tensor,
    matches: Tensor,
    grid: Sequence[int],
) -> Tensor:
    """The blend of a local fusion on a finer map. See :func:`pyeqgan.functional.lifted_fusion`."""
    dtype = accumulation_dtype(base.dtype)
    patches = _patches(base.to(dtype), grid)
    candidates = _patches(references.to(dtype).flatten(0, 1), grid).unflatten(0, references.shape[:2])
    size = patches.shape[1]
    index = positions[:, None].expand(-1, size, -1)
    gathered = candidates.gather(3, matches[:, :, None].expand(-1, -1, size, -1))
    share = weights.to(dtype)
    blend = share[:, :1, None] * patches.gather(2, index) + (share[:, 1:, None, None] * gathered).sum(1)
    fused = patches.scatter(2, index, blend)
    return _unpatch(fused, base.shape, grid).to(base.dtype)


def _patches(x: Tensor, grid: Sequence[int]) -> Tensor:
    """(B,C,s·h,s·w) as columns of aligned patches (B,C·s·s,h·w)."""
    batch, channels, height, width = x.shape
    h, w = grid
    s, t = height // h, width // w
    return x.reshape(batch, channels, h, s, w, t).permute(0, 1, 3, 5, 2, 4).reshape(batch, channels * s * t, h * w)


def _unpatch(columns: Tensor, shape: Sequence[int], grid: Sequence[int]) -> Tensor:
    batch, channels, height, width = shape
    h, w = grid
    s, t = height // h, width // w
    return columns.view(batch, channels, s, t, h, w).permute(0, 1, 4, 2, 5, 3).reshape(*shape)


def spatial_radius(sigma: float, radius: int | None) -> int:
    """The truncation radius of the spatial Gaussian: ``ceil(5·sigma)`` unless given; no map is larger than 2³¹."""
    return math.ceil(min(5 * sigma, 2.0**31)) if radius is None else radius


def spatial_matrix(size: int, sigma: float, radius: int, *, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The row-normalised truncated Gaussian A (size,size) of the spatial propagation."""
    position = torch.arange(size, dtype=torch.float64, device=device)
    distance = position[:, None] - position
    weight = torch.exp(-(distance**2) / (2 * sigma**2)) * (distance.abs() <= radius)
    return (weight / weight.sum(1, keepdim=True)).to(dtype)


def neighbours(x: Tensor) -> Tensor:
    """The 3×3 neighbourhood of every pixel, zero outside the map: (B,C,H,W) → (B,9,C,H,W), row-major."""
    height, width = x.shape[-2:]
    padded = F.pad(x, (1, 1, 1, 1))
    return torch.stack([padded[..., i : i + height, j : j + width] for i in range(3) for j in range(3)], 1)


def bilateral_propagation(
    x: Tensor, gate: Tensor | None = None, *, sigma: float = 1.5, radius: int | None = None
) -> Tensor:
    """Spatial and range propagation (MEDFE, ECCV 2020). See :func:`pyeqgan.functional.bilateral_propagation`."""
    return bilateral_propagation_with_affinity(x, gate, sigma, spatial_radius(sigma, radius))[0]


def bilateral_propagation_with_affinity(
    x: Tensor, gate: Tensor | None, sigma: float, radius: int
) -> tuple[Tensor, Tensor]:
    """The propagation and the softmax weights a (B,9,H,W) of its range term, which the kernels save."""
    dtype = accumulation_dtype(x.dtype)
    channels, height, width = x.shape[1:]
    v = x.to(dtype) if gate is None else x.to(dtype) * gate.to(dtype)[:, :, None, None]
    rows = spatial_matrix(height, sigma, radius, dtype=dtype, device=x.device)
    columns = spatial_matrix(width, sigma, radius, dtype=dtype, device=x.device)
    spatial = torch.einsum("ih,bchw,jw->bcij", rows, v, columns)
    squashed = torch.sigmoid(v)
    affinity = torch.einsum("bchw,bkchw->bkhw", squashed, neighbours(squashed)) / channels
    affinity = torch.softmax(affinity, 1)
    ranged = torch.einsum("bkhw,bkchw->bchw", affinity, neighbours(v))
    return torch.cat([spatial, ranged], 1).to(x.dtype), affinity


def normalize(
    x: Tensor,
    norm: str | None,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Batch or instance normalisation; also returns the mean and the biased variance it used.

    Both are of shape (C,) for "batch", (B,C) for "instance" and (0,) without normalisation. Running statistics
    are read (in evaluation), never written: see :func:`update_running_statistics`.
    """
    if norm is None:
        return x, x.new_empty(0), x.new_empty(0)
    if norm == "batch" and not training:
        assert running_mean is not None and running_var is not None
        mean, var = running_mean.to(x.dtype), running_var.to(x.dtype)
    else:
        dims = (0, 2, 3) if norm == "batch" else (2, 3)
        mean = x.mean(dims)
        var = (x - mean.view(-1, x.shape[1], 1, 1)).square().mean(dims)
    shape = (-1, x.shape[1], 1, 1)
    y = (x - mean.view(shape)) * torch.rsqrt(var.view(shape) + eps)
    if weight is not None:
        y = y * weight.to(x.dtype)[:, None, None]
    if bias is not None:
        y = y + bias.to(x.dtype)[:, None, None]
    return y, mean, var


@torch.no_grad()
def update_running_statistics(
    running_mean: Tensor | None,
    running_var: Tensor | None,
    mean: Tensor,
    var: Tensor,
    momentum: float,
    count: int,
) -> None:
    """Move the running statistics of a batch norm towards a batch's; ``var`` is biased, the running one is not."""
    if running_mean is None or running_var is None or count == 0:
        return
    running_mean.lerp_(mean.to(running_mean.dtype), momentum)
    running_var.lerp_((var * (count / max(count - 1, 1))).to(running_var.dtype), momentum)


def equalization_fusion(
    structure: Tensor,
    texture: Tensor,
    fuse_weight: Tensor,
    fuse_bias: Tensor | None,
    gate_reduce_weight: Tensor,
    gate_reduce_bias: Tensor | None,
    gate_expand_weight: Tensor,
    gate_expand_bias: Tensor | None,
    out_weight: Tensor,
    *,
    detail: Tensor | None = None,
    norm: str | None = "instance",
    fuse_norm_weight: Tensor | None = None,
    fuse_norm_bias: Tensor | None = None,
    fuse_running_mean: Tensor | None = None,
    fuse_running_var: Tensor | None = None,
    out_norm_weight: Tensor | None = None,
    out_norm_bias: Tensor | None = None,
    out_running_mean: Tensor | None = None,
    out_running_var: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    sigma: float = 1.5,
    negative_slope: float = 0.2,
) -> Tensor:
    """Feature equalization. See :func:`pyeqgan.functional.equalization_fusion`."""
    dtype = accumulation_dtype(structure.dtype)

    def convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv2d(x, weight.to(dtype), None if bias is None else bias.to(dtype))

    def normalize_and_activate(
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        running_mean: Tensor | None,
        running_var: Tensor | None,
    ) -> Tensor:
        y, mean, var = normalize(x, norm, weight, bias, running_mean, running_var, training, eps)
        if norm == "batch" and training:
            count = x.numel() // max(x.shape[1], 1)
            update_running_statistics(running_mean, running_var, mean, var, momentum, count)
        return F.leaky_relu(y, negative_slope)

    inputs = [structure, texture] if detail is None else [structure, texture, detail]
    x = convolve(torch.cat([i.to(dtype) for i in inputs], 1), fuse_weight, fuse_bias)
    x = normalize_and_activate(x, fuse_norm_weight, fuse_norm_bias, fuse_running_mean, fuse_running_var)
    gate = F.relu(convolve(x.mean((2, 3), keepdim=True), gate_reduce_weight, gate_reduce_bias))
    gate = torch.sigmoid(convolve(gate, gate_expand_weight, gate_expand_bias))[:, :, 0, 0]
    y = convolve(bilateral_propagation(x, gate, sigma=sigma), out_weight, None)
    y = normalize_and_activate(y, out_norm_weight, out_norm_bias, out_running_mean, out_running_var)
    return y.to(structure.dtype)


# --- decoder and convolution --------------------------------------------------------------------------------


def skip_decoder_block(
    x: Tensor,
    skip: Tensor | None,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    norm: str | None = None,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    activation: str | None = "leaky_relu",
    negative_slope: float = 0.2,
) -> Tensor:
    """Upsample, join, convolve, normalise, activate. See :func:`pyeqgan.functional.skip_decoder_block`."""
    y, _, mean, var = skip_decoder_block_with_statistics(
        x,
        skip,
        weight,
        bias,
        norm=norm,
        norm_weight=norm_weight,
        norm_bias=norm_bias,
        running_mean=running_mean,
        running_var=running_var,
        training=training,
        eps=eps,
        activation=activation,
        negative_slope=negative_slope,
    )
    if norm == "batch" and training:
        update_running_statistics(running_mean, running_var, mean, var, momentum, y.numel() // max(y.shape[1], 1))
    return y


def skip_decoder_block_with_statistics(
    x: Tensor,
    skip: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    *,
    norm: str | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    eps: float,
    activation: str | None,
    negative_slope: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The block's y, the convolution's result before the norm, and the mean and variance the norm used."""
    dtype = accumulation_dtype(x.dtype)
    joined = _upsample(x.to(dtype))
    if skip is not None:
        fine = skip.shape[-2:] != x.shape[-2:]
        joined = torch.cat([joined, skip.to(dtype) if fine else _upsample(skip.to(dtype))], 1)
    mode = "reflect" if joined.numel() else "constant"  # torch refuses to reflect an empty batch
    pre = F.conv2d(F.pad(joined, (1, 1, 1, 1), mode=mode), weight.to(dtype), None if bias is None else bias.to(dtype))
    y, mean, var = normalize(pre, norm, norm_weight, norm_bias, running_mean, running_var, training, eps)
    return activate(y, activation, negative_slope).to(x.dtype), pre, mean, var


def _upsample(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, -2).repeat_interleave(2, -1)


PADDING_MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "replicate"}


def activated_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: str | None = "leaky_relu",
    negative_slope: float = 0.2,
    padding: int = 1,
    padding_mode: str = "reflect",
) -> Tensor:
    """Activate, pad, convolve with stride 1. See :func:`pyeqgan.functional.activated_conv2d`."""
    dtype = accumulation_dtype(x.dtype)
    h = activate(x.to(dtype), activation, negative_slope)
    mode = PADDING_MODES[padding_mode] if h.numel() else "constant"
    padded = F.pad(h, (padding,) * 4, mode=mode) if padding else h
    return F.conv2d(padded, weight.to(dtype), None if bias is None else bias.to(dtype)).to(x.dtype)


# --- losses -------------------------------------------------------------------------------------------------


def contrastive_rows(
    queries: Tensor,
    query_labels: Tensor,
    keys: Tensor | None,
    key_labels: Tensor | None,
    temperature: float | Tensor,
    mode: str,
    normalize: bool,
    ignore_index: int,
    query_ids: Tensor | None,
    key_ids: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The loss of every query (M,), 0 where inactive, and what the kernels save of it.

    That is its log-sum-exp (over all valid keys in "supcon", over the negatives in "per_positive"), the sum T of
    sigmoid(B − s) over its positives (0 in "supcon"), and their number c, int64.
    """
    dtype = accumulation_dtype(queries.dtype)
    if keys is None:
        keys, key_labels = queries, query_labels
        if query_ids is None:
            query_ids = torch.arange(len(queries), device=queries.device)
        key_ids = query_ids
    assert key_labels is not None
    used, offered = query_labels != ignore_index, key_labels != ignore_index
    q = queries.to(dtype).masked_fill(~used[:, None], 0)
    k = keys.to(dtype).masked_fill(~offered[:, None], 0)
    if normalize:
        q, k = F.normalize(q, dim=1, eps=1e-12), F.normalize(k, dim=1, eps=1e-12)
    s = q @ k.T / (temperature.to(dtype) if isinstance(temperature, Tensor) else temperature)
    valid = used[:, None] & offered
    if query_ids is not None and key_ids is not None:
        valid &= query_ids[:, None] != key_ids
    equal = query_labels[:, None] == key_labels
    positive, negative = valid & equal, valid & ~equal
    count = positive.sum(1)
    active = count > 0
    denominator = count.clamp_min(1)
    if mode == "supcon":
        boundary = _masked_logsumexp(s, valid)
        rows = boundary - s.masked_fill(~positive, 0).sum(1) / denominator
        pull = torch.zeros_like(boundary)
    else:
        boundary = _masked_logsumexp(s, negative)
        margin = (boundary[:, None] - s).masked_fill(~positive | ~negative.any(1)[:, None], -torch.inf)
        rows = F.softplus(margin, threshold=50).sum(1) / denominator
        pull = margin.sigmoid().sum(1)
    return torch.where(active, rows, torch.zeros_like(rows)), boundary.detach(), pull.detach(), count


def _masked_logsumexp(s: Tensor, mask: Tensor) -> Tensor:
    """Row-wise log-sum-exp over ``mask``; −inf, with zero gradient, for a row where nothing is selected."""
    some = mask.any(1)
    safe = s.masked_fill(~mask & some[:, None], -torch.inf).masked_fill(~some[:, None], 0)
    if safe.shape[1] == 0:
        return s.new_full((len(s),), -torch.inf)
    return torch.where(some, safe.logsumexp(1), -torch.inf)


def contrastive_loss(
    queries: Tensor,
    query_labels: Tensor,
    keys: Tensor | None = None,
    key_labels: Tensor | None = None,
    *,
    temperature: float | Tensor = 0.1,
    mode: str = "per_positive",
    normalize: bool = True,
    ignore_index: int = -1,
    query_ids: Tensor | None = None,
    key_ids: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Supervised pixel InfoNCE. See :func:`pyeqgan.functional.contrastive_loss`."""
    rows, _, _, count = contrastive_rows(
        queries,
        query_labels,
        keys,
        key_labels,
        temperature,
        mode,
        normalize,
        ignore_index,
        query_ids,
        key_ids,
    )
    if reduction == "none":
        return rows
    return rows.sum() / (count > 0).sum().clamp_min(1) if reduction == "mean" else rows.sum()


def multiscale_contrastive_loss(
    features: Sequence[Tensor],
    labels: Tensor,
    *,
    temperature: float | Tensor = 0.1,
    mode: str = "per_positive",
    scale_weights: Sequence[float] | None = None,
    cross_scale: Sequence[tuple[int, int]] = (),
    cross_weight: float = 1.0,
    ignore_index: int = -1,
    max_pixels: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The loss of a pyramid. See :func:`pyeqgan.functional.multiscale_contrastive_loss`."""
    weights = [1.0] * len(features) if scale_weights is None else list(scale_weights)
    scales = [pixels_of_scale(f, labels, ignore_index, max_pixels, generator) for f in features]

    def loss(queries: tuple[Tensor, Tensor], *keys: Tensor) -> Tensor:
        return contrastive_loss(*queries, *keys, temperature=temperature, mode=mode, ignore_index=ignore_index)

    total = torch.stack([w * loss(scale) for w, scale in zip(weights, scales, strict=True)]).sum()
    for s, t in cross_scale:
        total = total + cross_weight * loss(scales[s], *scales[t])
    return total


def pixels_of_scale(
    features: Tensor,
    labels: Tensor,
    ignore_index: int,
    max_pixels: int | None,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor]:
    """The (sampled) pixels of one scale as rows (M,D), and their labels (M,)."""
    height, width = features.shape[2:]
    rows = torch.arange(height, device=labels.device) * labels.shape[1] // max(height, 1)
    columns = torch.arange(width, device=labels.device) * labels.shape[2] // max(width, 1)
    resized = labels[:, rows][:, :, columns]
    pixels, flat = features.permute(0, 2, 3, 1).flatten(0, 2), resized.flatten()
    if max_pixels is None:
        return pixels, flat
    chosen = _sample_pixels(resized.flatten(1), ignore_index, max_pixels, generator)
    return pixels[chosen], flat[chosen]


def _sample_pixels(labels: Tensor, ignore_index: int, max_pixels: int, generator: torch.Generator | None) -> Tensor:
    """Indices into the flattened (B,HW) labels: at most ``max_pixels`` for each image and class, ascending."""
    batch, size = labels.shape
    order = torch.rand(batch, size, device=labels.device, generator=generator).argsort(1)
    shuffled = labels.gather(1, order)
    grouped = shuffled.argsort(dim=1, stable=True)
    classes = shuffled.gather(1, grouped)
    place = torch.arange(size, device=labels.device).expand(batch, size)
    first = torch.ones_like(classes, dtype=torch.bool)
    first[:, 1:] = classes[:, 1:] != classes[:, :-1]
    start = torch.where(first, place, 0).cummax(1).values if size else place
    keep = (place - start < max_pixels) & (classes != ignore_index)
    pixel = order.gather(1, grouped) + torch.arange(batch, device=labels.device)[:, None] * size
    return pixel[keep].sort().values


def equalization_consistency_loss(
    equalized: Sequence[Tensor],
    decoded: Sequence[Tensor],
    *,
    scale_weights: Sequence[float] | None = None,
    distance: str = "cosine",
    detach: str | None = None,
) -> Tensor:
    """Distance of two feature pyramids. See :func:`pyeqgan.functional.equalization_consistency_loss`."""
    weights = [1.0] * len(equalized) if scale_weights is None else list(scale_weights)
    dtype = accumulation_dtype(equalized[0].dtype)
    total = torch.zeros((), dtype=dtype, device=equalized[0].device)
    for weight, e, d in zip(weights, equalized, decoded, strict=True):
        a = (e.detach() if detach == "equalized" else e).to(dtype)
        b = (d.detach() if detach == "decoded" else d).to(dtype)
        if a.numel() == 0:
            total = total + a.sum() + b.sum()  # 0, attached to the graph
            continue
        if distance == "cosine":
            value = 1 - F.cosine_similarity(a, b, dim=1, eps=1e-8)
        elif distance == "l1":
            value = (a - b).abs()
        else:
            value = (a - b).square()
        total = total + weight * value.mean()
    return total
