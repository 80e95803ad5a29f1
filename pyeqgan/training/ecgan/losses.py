"""ECGAN's losses, each a function of tensors, and their weights.

Hinge and feature matching are SPADE's (CVPR 2019), over ECGAN's modalities; the similarity loss and the contrastive
loss are ECGAN's (ICLR 2023). All are computed in at least float32.

Of a batch that several processes share, the mean of the processes' losses is that of the batch, with its gradient. Most
are means over equally many images; the others take the `group` in which the processes meet.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from pyeqgan.functional import multiscale_contrastive_loss, similarity_loss

Contrast = Literal["none", "single", "multi"]

SCALE_WEIGHTS = (0.4, 0.7, 1.0)  # H/8, H/4, H/2 (ours, after Pissas et al., ECCV 2022)
CROSS_SCALE = ((2, 0), (2, 1))  # pixels of H/2 against those of H/8 and of H/4 (ours)
TEMPERATURE = 0.1
IGNORED = -1


@dataclass(frozen=True)
class LossWeights:
    """Which losses are minimised, and how much each counts; what has weight 0 is not computed.

    Attributes:
        edges, images, refined: of the modalities I'_e, I' and I'', in the hinge loss and in feature matching.
        feature_matching: weight of the distance between the discriminator's features of real and generated maps.
        perceptual: weight of the distance of images in VGG's features, as published 10; 0 by default, because it needs
            weights that are not ours to give (:class:`~pyeqgan.training.ecgan.perceptual.PerceptualDistance`).
        similarity: weight of the similarity loss on the final image (the value is ours).
        similarity_stride: it compares all pairs of every that manyth pixel in each direction (ours).
        contrastive: total weight of the contrastive loss (the value is ours).
        contrast: "none"; "single": within the features of H/2; "multi": within and across H/8, H/4 and H/2.
        contrast_pixels: how many pixels of an image and class contrast at most (ours); None: all.
        contrast_rows: how many of an image contrast at each scale, whatever its labels (ours); None: all drawn.

    Raises:
        ValueError: a weight is negative or not finite, no image has one, ``contrast`` is unknown, a number below 1.
    """

    edges: float = 1.0
    images: float = 1.0
    refined: float = 2.0
    feature_matching: float = 10.0
    perceptual: float = 0.0
    similarity: float = 1.0
    similarity_stride: int = 4
    contrastive: float = 0.3
    contrast: Contrast = "multi"
    contrast_pixels: int | None = 256
    contrast_rows: int | None = None

    def __post_init__(self) -> None:
        for name in ("edges", "images", "refined", "feature_matching", "perceptual", "similarity", "contrastive"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"LossWeights: {name}: expected a finite number >= 0, got {value}")
        if not (self.images or self.refined):
            raise ValueError("LossWeights: images, refined: expected a weight > 0, got 0 for both")
        if self.contrast not in get_args(Contrast):
            known = " or ".join(map(repr, get_args(Contrast)))
            raise ValueError(f"LossWeights: contrast: expected {known}, got {self.contrast!r}")
        for name in ("similarity_stride", "contrast_pixels", "contrast_rows"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"LossWeights: {name}: expected an integer >= 1, got {value}")

    def of(self, names: Sequence[str]) -> list[float]:
        """The weights of some modalities."""
        return [getattr(self, name) for name in names]


def hinge_real(logits: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """The discriminator's hinge loss on real maps: Σ_m w_m · mean max(0, 1 - logit), averaged over the scales.

    Args:
        logits: one (M,B,1,h,w) a scale.
        weights: w, of the M maps.
    """
    return _mean_over_scales([F.relu(1 - _precise(logit)) for logit in logits], weights)


def hinge_fake(logits: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """The discriminator's hinge loss on generated maps: Σ_m w_m · mean max(0, 1 + logit), as :func:`hinge_real`."""
    return _mean_over_scales([F.relu(1 + _precise(logit)) for logit in logits], weights)


def adversarial(logits: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """The generator's side of the hinge loss: Σ_m w_m · mean(-logit), as :func:`hinge_real`."""
    return _mean_over_scales([-_precise(logit) for logit in logits], weights)


def feature_matching(
    real: Sequence[Sequence[Tensor]],
    fake: Sequence[Sequence[Tensor]],
    partners: Sequence[int],
    weights: Sequence[float],
) -> Tensor:
    """Σ_m w_m Σ_l mean |f_l(fake_m) - f_l(real)|, averaged over the scales (pix2pixHD, SPADE).

    Args:
        real: by scale and layer, the discriminator's features (R,B,C,h,w) of real maps; they get no gradient.
        fake: those of generated maps, (M,B,C,h,w).
        partners: for each of the M generated maps, which of the R real ones it is compared with.
        weights: w, of the M maps.
    """
    scales = []
    for of_real, of_fake in zip(real, fake, strict=True):
        distances = [
            (_precise(f) - torch.stack([_precise(r[partner].detach()) for partner in partners])).abs()
            for r, f in zip(of_real, of_fake, strict=True)
        ]
        scales.append(sum(_weighted(distance, weights) for distance in distances))
    return torch.stack(scales).mean()  # type: ignore[arg-type]


def similarity(class_logits: Tensor, labels: Tensor, stride: int, *, group: dist.ProcessGroup | None = None) -> Tensor:
    """ECGAN's similarity loss: two pixels look alike where their labels are equal, and only there.

    Args:
        class_logits: (B,N_c,H,W) of a segmenter on generated images.
        labels: (B,H,W) int64, -1: ignored.
        stride: every that many pixels in each direction is compared with every.
        group: of the processes that share a batch.
    """
    probabilities = _precise(class_logits[:, :, ::stride, ::stride]).softmax(1)
    labels = labels[:, ::stride, ::stride].contiguous()
    loss = similarity_loss(probabilities, labels, ignore_index=IGNORED)
    if group is None:
        return loss
    counted = (labels != IGNORED).flatten(1).any(1).sum()  # images of nothing but ignored pixels do not count
    return loss * counted / _mean_count(counted, group)


def contrastive(
    vectors: Sequence[Tensor],
    labels: Tensor,
    *,
    max_pixels: int | None = None,
    rows_per_image: int | None = None,
    generator: torch.Generator | None = None,
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    """ECGAN's (multi-scale) contrastive loss over the pixels of all layouts of the batch.

    Args:
        vectors: (B,D,h_s,w_s) at H/8, H/4 and H/2, or at H/2 alone.
        labels: (B,H,W) int64, -1: ignored.
        max_pixels: of an image and class, drawn; None takes all.
        rows_per_image: of an image, whatever its labels; None takes all that are drawn.
        generator: of the draw, on the labels' device.
        group: of the processes that share a batch.
    """
    multi = len(vectors) > 1
    loss = multiscale_contrastive_loss(
        vectors,
        labels,
        temperature=TEMPERATURE,
        scale_weights=SCALE_WEIGHTS if multi else (1.0,),
        cross_scale=CROSS_SCALE if multi else (),
        ignore_index=IGNORED,
        max_pixels=max_pixels,
        rows_per_image=rows_per_image,
        generator=generator,
        group=group,
    )
    if group is None:
        return loss
    # It is that of the batch already, and the processes' gradients are shares that add up; now they have it for a mean.
    return loss + (group.size() - 1) * (loss - loss.detach())


def segmentation(class_logits: Tensor, labels: Tensor, *, group: dist.ProcessGroup | None = None) -> Tensor:
    """Mean cross entropy of class logits (B,N_c,H,W) over the pixels of the batch that have a label; 0 if none has."""
    total = F.cross_entropy(_precise(class_logits), labels, ignore_index=IGNORED, reduction="sum")
    return total / _mean_count((labels != IGNORED).sum(), group)


def _mean_count(count: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """The mean over the processes of a count, to divide sums by; not 0."""
    if group is None:
        return count.clamp_min(1)
    count = count.clone()
    dist.all_reduce(count, group=group)
    return count.clamp_min(1) / group.size()


def _mean_over_scales(values: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    return torch.stack([_weighted(value, weights) for value in values]).mean()


def _weighted(values: Tensor, weights: Sequence[float]) -> Tensor:
    """Σ_m w_m · mean of values[m]. The weights are no tensor, which would be copied to a GPU each time."""
    means = values.flatten(1).mean(1)
    return torch.stack([weight * mean for weight, mean in zip(weights, means.unbind(), strict=True)]).sum()


def _precise(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
