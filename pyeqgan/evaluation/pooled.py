"""Numbers of all classes together, with intervals over classes: those are drawn, not the images within them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pyeqgan.evaluation.bootstrap import Estimate, bootstrap
from pyeqgan.evaluation.frechet import frechet_distance
from pyeqgan.evaluation.kernel import KernelSums, kernel_distance_of_subsets
from pyeqgan.evaluation.manifold import NEIGHBOURS, within_manifold

FRECHET_REPLICATES = 200
FRECHET_REPLICATES_WIDE = 100  # of features in which one distance takes seconds
WIDE = 512
PUBLISHED_SUBSET = 1000


def frechet(generated: Sequence[Tensor], real: Sequence[Tensor], *, seed: int | None) -> Estimate | None:
    """Fréchet distance of the pooled classes; None for a single generated image, which has no covariance."""
    if _count(generated) < 2:
        return None

    def pooled(classes: Sequence[int]) -> float:
        return frechet_distance(torch.cat([generated[c] for c in classes]), torch.cat([real[c] for c in classes]))

    replicates = FRECHET_REPLICATES_WIDE if generated[0].shape[1] > WIDE else FRECHET_REPLICATES
    return bootstrap(pooled, len(generated), seed=seed, replicates=replicates, bounds=(0.0, math.inf))


def kernel(generated: Sequence[Tensor], real: Sequence[Tensor], *, seed: int | None) -> Estimate | None:
    """Kernel distance of the pooled classes; None for a single image."""
    if min(_count(generated), _count(real)) < 2:
        return None
    return bootstrap(KernelSums.of(generated, real).distance, len(generated), seed=seed)


def kernel_subsets(generated: Sequence[Tensor], real: Sequence[Tensor], *, seed: int) -> dict[str, Any] | None:
    """The kernel distance as it is published, of subsets of 1000, or of half the smaller set; None below two images."""
    size = min(PUBLISHED_SUBSET, _count(generated) // 2, _count(real) // 2)
    if size < 2:
        return None
    mean, deviation = kernel_distance_of_subsets(
        torch.cat(list(generated)), torch.cat(list(real)), size=size, seed=seed
    )
    return {"mean": mean, "standard_deviation": deviation, "size": size}


def inside(features: Sequence[Tensor], manifold: Sequence[Tensor]) -> list[Tensor] | None:
    """Which features of each class lie within the manifold of all classes; None where that has too few images."""
    if _count(manifold) <= NEIGHBOURS:
        return None
    found = within_manifold(torch.cat(list(features)), torch.cat(list(manifold)))
    return list(found.double().split([len(f) for f in features]))


def share(inside: Sequence[Tensor] | None, *, seed: int | None) -> Estimate | None:
    """Share of all features within a manifold, which the drawing of classes leaves as it is."""
    if inside is None:
        return None

    def pooled(classes: Sequence[int]) -> float:
        return float(torch.cat([inside[c] for c in classes]).mean())

    return bootstrap(pooled, len(inside), seed=seed, bounds=(0.0, 1.0))


def _count(features: Sequence[Tensor]) -> int:
    return sum(map(len, features))
