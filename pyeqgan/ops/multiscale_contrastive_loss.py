"""``multiscale_contrastive_loss``: the contrastive loss within and across the scales of a feature pyramid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pyeqgan import reference
from pyeqgan.ops import _checks as check
from pyeqgan.ops.contrastive_loss import contrastive_loss

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

NAME = "multiscale_contrastive_loss"


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
    group: ProcessGroup | None = None,
) -> Tensor:
    """L = Σ_s w_s·L(F_s, F_s) + cross_weight·Σ_(s,t) L(F_s → F_t), L the :func:`contrastive_loss` over pixels.

    The pixels of all images of the batch contrast with each other.

    Args:
        features: one (B,D,h_s,w_s) per scale, all of one dtype; D must agree between the scales of a cross pair.
        labels: (B,H,W) int64, resized to each scale by nearest neighbour (row i·H//h_s).
        temperature, mode, ignore_index: as in ``contrastive_loss``.
        scale_weights: w_s, finite and ≥ 0; None takes 1 for every scale.
        cross_scale: pairs (s,t) of scale indices: pixels of scale s are queries, those of t keys.
        cross_weight: weight of the sum over the pairs; ≥ 0.
        max_pixels: at most so many pixels per image and class, drawn uniformly; None takes all. The number drawn
            depends on the labels, for which a GPU is waited for; ``torch.compile`` breaks the graph here.
        rows_per_image: with ``max_pixels``, so many rows of an image (or all its h_s·w_s) whatever its labels: those
            drawn, evenly of its classes if they are more, and ignored ones in the place of those missing. Then nothing
            depends on a label but values: CUDA graphs and ``torch.compile`` take it whole.
        generator: of the draw, on the labels' device, for reproducible sampling.
        group: a process group, whose ranks hold the images of one batch; as in ``contrastive_loss``, to which every
            rank must bring as many scales. Each draws for all images and takes its own: with ``generator`` in one
            state everywhere, the pixels are those that one process would have drawn.

    Returns:
        A 0-d tensor, float32 (float64 for float64 features). Differentiable twice in the features and temperature.

    Raises:
        TypeError, ValueError, NotImplementedError: as ``contrastive_loss``.

    Source: ECGAN (ICLR 2023) names the loss and leaves scales, pairs and weights open; its form here follows
    Pissas et al., "Multi-scale and Cross-scale Contrastive Learning for Semantic Segmentation", ECCV 2022. Sampling
    per image and class is (ours).
    """
    weights = _check(features, labels, scale_weights, cross_scale, cross_weight, max_pixels, rows_per_image, generator)
    images, first = (None, 0) if group is None else _place(labels, group)
    drawing = (ignore_index, max_pixels, generator, rows_per_image)
    scales = [reference.pixels_of_scale(f, labels, *drawing, images=images, first=first) for f in features]

    def loss(queries: tuple[Tensor, Tensor], keys: tuple[Tensor, Tensor] | tuple[None, None]) -> Tensor:
        options = {"temperature": temperature, "mode": mode, "ignore_index": ignore_index, "group": group}
        return contrastive_loss(*queries, *keys, **options)  # type: ignore[arg-type]

    total = sum(w * loss(scale, (None, None)) for w, scale in zip(weights, scales, strict=True))
    cross = [loss(scales[s], scales[t]) for s, t in cross_scale]
    return total + cross_weight * sum(cross) if cross else total  # type: ignore[return-value]


def _place(labels: Tensor, group: ProcessGroup) -> tuple[int, int]:
    """How many images all ranks have, and how many come before those of this one."""
    from pyeqgan.ops import _sharded

    sizes = _sharded.rows_of_ranks(len(labels), labels.device, group)
    return sum(sizes), sum(sizes[: group.rank()])


def _check(
    features: Sequence[Tensor],
    labels: Tensor,
    scale_weights: Sequence[float] | None,
    cross_scale: Sequence[tuple[int, int]],
    cross_weight: float,
    max_pixels: int | None,
    rows_per_image: int | None,
    generator: torch.Generator | None,
) -> list[float]:
    if not isinstance(features, list | tuple) or not features:
        check.fail(NAME, "features", "a non-empty list of (B,D,h,w) tensors", type(features).__name__, TypeError)
    check.tensor(NAME, "labels", labels, shape=("B", "H", "W"), dtype=torch.int64)
    for i, f in enumerate(features):
        shape = (labels.shape[0], "D", "h", "w")
        check.tensor(NAME, f"features[{i}]", f, shape=shape, device=labels.device)
        check.tensor(NAME, f"features[{i}]", f, dtype=features[0].dtype)
        if any(size > 0 and of_labels == 0 for size, of_labels in zip(f.shape[2:], labels.shape[1:], strict=True)):
            check.fail(NAME, "labels", "H and W >= 1", f"shape {tuple(labels.shape)}")
    weights = check.scale_weights(NAME, scale_weights, len(features))
    check.sequence(NAME, "cross_scale", cross_scale, "pairs of scale indices")
    for pair in cross_scale:
        check.sequence(NAME, "cross_scale", pair, "two scale indices")
        if len(pair) != 2 or not all(isinstance(i, int) and 0 <= i < len(features) for i in pair):
            check.fail(NAME, "cross_scale", f"pairs of scale indices in [0, {len(features)})", pair)
    check.number(NAME, "cross_weight", cross_weight, minimum=0)
    if max_pixels is not None:
        check.integer(NAME, "max_pixels", max_pixels, minimum=1)
    if rows_per_image is not None:
        check.integer(NAME, "rows_per_image", rows_per_image, minimum=1)
        if max_pixels is None:
            check.fail(NAME, "rows_per_image", "None without max_pixels", rows_per_image)
    if generator is not None:
        if not isinstance(generator, torch.Generator):
            check.fail(NAME, "generator", "a torch.Generator", type(generator).__name__, TypeError)
        if generator.device.type != labels.device.type:
            check.fail(NAME, "generator", f"device {labels.device}", generator.device)
    return weights
