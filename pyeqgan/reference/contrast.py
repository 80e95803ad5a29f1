"""Supervised pixel contrast, at one scale and at many."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from pyeqgan.reference.arithmetic import accumulation_dtype


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
    rows_per_image: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The loss of a pyramid. See :func:`pyeqgan.functional.multiscale_contrastive_loss`."""
    weights = [1.0] * len(features) if scale_weights is None else list(scale_weights)
    scales = [pixels_of_scale(f, labels, ignore_index, max_pixels, generator, rows_per_image) for f in features]

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
    rows_per_image: int | None = None,
    *,
    images: int | None = None,
    first: int = 0,
) -> tuple[Tensor, Tensor]:
    """The (sampled) pixels of one scale as rows (M,D), and their labels (M,).

    Of a batch of ``images`` these are from the ``first`` on: the draw is that of all, whoever has the others.
    """
    height, width = features.shape[2:]
    rows = torch.arange(height, device=labels.device) * labels.shape[1] // max(height, 1)
    columns = torch.arange(width, device=labels.device) * labels.shape[2] // max(width, 1)
    resized = labels[:, rows][:, :, columns]
    pixels, flat = features.permute(0, 2, 3, 1).flatten(0, 2), resized.flatten()
    if max_pixels is None:
        return pixels, flat
    numbers = torch.rand(images or len(labels), height * width, device=labels.device, generator=generator)
    place, turn = _shuffled_within_classes(resized.flatten(1), numbers[first : first + len(labels)])
    drawn = (turn < max_pixels) & (flat[place] != ignore_index)
    if rows_per_image is None:
        chosen = place[drawn].sort().values
        return pixels[chosen], flat[chosen]
    # Every class's first, then every class's second, …; what is not drawn comes last.
    earliest = turn.masked_fill(~drawn, turn.shape[1]).argsort(dim=1, stable=True)[:, :rows_per_image]
    chosen, drawn = place.gather(1, earliest).flatten(), drawn.gather(1, earliest).flatten()
    return pixels[chosen], flat[chosen].masked_fill(~drawn, ignore_index)


def _shuffled_within_classes(labels: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Of labels (B,HW) the indices into all of them, (B,HW), grouped by class, within each by the random ``numbers``
    (B,HW); and which of its class in its image each one is, from 0."""
    batch, size = labels.shape
    order = numbers.argsort(1)
    shuffled = labels.gather(1, order)
    grouped = shuffled.argsort(dim=1, stable=True)
    classes = shuffled.gather(1, grouped)
    place = torch.arange(size, device=labels.device).expand(batch, size)
    first = torch.ones_like(classes, dtype=torch.bool)
    first[:, 1:] = classes[:, 1:] != classes[:, :-1]
    start = torch.where(first, place, 0).cummax(1).values if size else place
    return order.gather(1, grouped) + torch.arange(batch, device=labels.device)[:, None] * size, place - start
