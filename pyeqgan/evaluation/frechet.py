"""The Fréchet distance between two sets of features, without a matrix square root."""

from __future__ import annotations

import torch
from torch import Tensor


def frechet_distance(x: Tensor, y: Tensor) -> float:
    """Squared Fréchet (2-Wasserstein) distance between Gaussians fitted to two sets of features.

    ``‖μx − μy‖² + tr(Σx + Σy − 2 (Σx Σy)^½)`` (Dowson and Landau 1982; FID: Heusel et al. 2017, arXiv 1706.08500), the
    plug-in estimator with unbiased covariances. It is biased upwards by small sets, the more so the more dimensions:
    compare only distances between sets of the same sizes, and never across feature networks.

    How it is computed (ours; the Procrustes form of the Bures metric): with factors ``Σx = AᵀA``, ``Σy = BᵀB`` and the
    singular value decomposition ``ABᵀ = W S Vᵀ``, the second term is ``‖A − W Vᵀ B‖²``. As a sum of squares it is
    never negative, does not cancel for near sets, and takes no root of a rounding error where sets have fewer images
    than dimensions. Float64 throughout.

    Args:
        x: (n,D) floating, n >= 2.
        y: (m,D) floating, m >= 2.

    Raises:
        ValueError: fewer than two rows, other shapes, or a value that is not finite.
    """
    for name, features in (("x", x), ("y", y)):
        if features.dim() != 2 or features.shape[0] < 2 or features.shape[1] < 1:
            raise ValueError(f"frechet_distance: {name}: expected shape (2 or more, D), got {tuple(features.shape)}")
        if not features.isfinite().all():
            raise ValueError(f"frechet_distance: {name}: expected finite features")
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"frechet_distance: y: expected {x.shape[1]} dimensions like x, got {y.shape[1]}")
    mean_x, a = _fit(x.double())
    mean_y, b = _fit(y.double())
    if len(a) < len(b):
        a, b = b, a
    w, _, vt = torch.linalg.svd(a @ b.T, full_matrices=False)
    shared = w.T @ a
    beyond = a - w @ shared  # what the factor of fewer rows leaves of the other
    return float((mean_x - mean_y).square().sum() + (shared - vt @ b).square().sum() + beyond.square().sum())


def _fit(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (D,) and a factor R (min(n,D),D) of the covariance RᵀR."""
    mean = x.mean(0)
    return mean, torch.linalg.qr((x - mean) / (len(x) - 1) ** 0.5, mode="r").R
