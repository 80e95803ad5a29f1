"""How much images differ: from one another in features, and from the references in pixels."""

from __future__ import annotations

import torch
from torch import Tensor


def mean_pairwise_distance(features: Tensor) -> float:
    """Mean Euclidean distance over all n(n−1)/2 pairs of rows; identical rows count, with distance 0.

    The pair protocol of LoFGAN (ICCV 2021), each image passing the network once. Images that fall apart are far from
    each other too: read it beside the accuracy.

    Args:
        features: (n,D) floating, n >= 2.

    Raises:
        ValueError: fewer than two rows, or another shape.
    """
    n = _check("mean_pairwise_distance", features, least=2)
    return float(pairwise_distances(features).sum() / (n * (n - 1)))


def nearest_neighbour_distance(features: Tensor) -> float:
    """Mean over the rows of the distance to the nearest other row; features (n,D), n >= 2, else ValueError."""
    _check("nearest_neighbour_distance", features, least=2)
    return float(pairwise_distances(features).fill_diagonal_(torch.inf).amin(1).mean())


def effective_number(features: Tensor, scale: float) -> float:
    """How many really different images a set holds: from 1, all alike, to n, none like another.

    The Vendi score (Friedman and Dieng 2023, arXiv 2210.02410): the exponential of the entropy of the eigenvalues of
    K/n, with ``K_ij = exp(−d_ij²/(2 scale²))`` (the kernel is ours). A set with r distinct images scores at most r,
    which no number of copies changes. It grows with n: compare sets of one size.

    Args:
        features: (n,D) floating, n >= 1.
        scale: distance at which two images count as different.

    Raises:
        ValueError: no rows, another shape, or a scale that is not above 0.
    """
    n = _check("effective_number", features, least=1)
    if not scale > 0:
        raise ValueError(f"effective_number: scale: expected a number above 0, got {scale}")
    kernel = (pairwise_distances(features).square() / (-2 * scale**2)).exp()
    shares = torch.linalg.eigvalsh(kernel / n).clamp_min(0)
    return float(torch.special.entr(shares).sum().exp())


def nearest_reference_distance(images: Tensor, references: Tensor) -> Tensor:
    """Mean absolute difference, over pixels and channels, from each image to the reference nearest in that sense.

    Exactly 0 for a copy. It says that images are new, not that they are good: noise is far from every reference.

    Args:
        images: (n,3,H,W) floating.
        references: (R,3,H,W) floating, R >= 1.

    Returns:
        (n,) in the units of the pixels.

    Raises:
        ValueError: the shapes do not fit.
    """
    if images.dim() != 4 or references.dim() != 4 or images.shape[1:] != references.shape[1:] or not len(references):
        raise ValueError(
            "nearest_reference_distance: expected images (n,3,H,W) and references (R,3,H,W), R >= 1, "
            f"got {tuple(images.shape)} and {tuple(references.shape)}"
        )
    distances = torch.cdist(images.flatten(1), references.flatten(1), p=1)
    return distances.amin(1) / images[0].numel() if len(images) else distances.new_zeros(0)


def pairwise_distances(features: Tensor) -> Tensor:
    """Euclidean distances between all rows of (n,D) by one product: (n,n) float64, 0 on the diagonal."""
    x = features.double()
    x = x - x.mean(0)  # keeps ‖a‖² + ‖b‖² − 2ab from cancelling far from the origin
    squares = x.square().sum(1)
    distances = (squares[:, None] + squares - 2 * (x @ x.T)).clamp_min(0).sqrt()
    return distances.fill_diagonal_(0)


def _check(function: str, features: Tensor, *, least: int) -> int:
    if features.dim() != 2 or len(features) < least:
        raise ValueError(f"{function}: features: expected shape ({least} or more, D), got {tuple(features.shape)}")
    return len(features)
