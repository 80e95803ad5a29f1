"""Precision and recall of a set of features: how many look real, and how much of what is real they reach."""

from __future__ import annotations

import torch
from torch import Tensor

NEIGHBOURS = 3
ROWS = 1024


def precision_recall(generated: Tensor, real: Tensor, *, neighbours: int = NEIGHBOURS) -> tuple[float, float]:
    """Share of generated features within the real manifold, and of real ones within the generated manifold.

    Improved precision and recall (Kynkäänniemi et al. 2019, arXiv 1904.06991, equations 1 and 2). Both depend on the
    sizes of the sets, and one outlier makes a large ball: compare sets of one size only.

    Args:
        generated: (n,D) floating, n > `neighbours`.
        real: (m,D) floating, m > `neighbours`.
        neighbours: k, the neighbour at which the ball around each feature ends.

    Raises:
        ValueError: too few rows, or other shapes.
    """
    return (
        float(within_manifold(generated, real, neighbours=neighbours).double().mean()),
        float(within_manifold(real, generated, neighbours=neighbours).double().mean()),
    )


def within_manifold(features: Tensor, manifold: Tensor, *, neighbours: int = NEIGHBOURS) -> Tensor:
    """Which of the features (n,D) lie in a ball around one of `manifold` (m,D) to its k-th nearest other: (n,) bool.

    Raises:
        ValueError: no more than `neighbours` rows of `manifold`, or other shapes.
    """
    if manifold.dim() != 2 or features.dim() != 2 or features.shape[1] != manifold.shape[1]:
        raise ValueError(
            "within_manifold: expected features (n,D) and manifold (m,D), "
            f"got {tuple(features.shape)} and {tuple(manifold.shape)}"
        )
    if neighbours < 1 or len(manifold) <= neighbours:
        raise ValueError(
            f"within_manifold: manifold: expected more than {max(neighbours, 1)} rows for the neighbour "
            f"{neighbours}, got {len(manifold)}"
        )
    features, manifold = features.double(), manifold.double()
    radii = torch.cat([_distances(f, manifold).kthvalue(neighbours + 1).values for f in manifold.split(ROWS)])
    return torch.cat([(_distances(f, manifold) <= radii).any(1) for f in features.split(ROWS)])


def _distances(x: Tensor, y: Tensor) -> Tensor:
    """By differences: by products, equal rows would be some rounding errors apart, and copies fall out of balls."""
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")
