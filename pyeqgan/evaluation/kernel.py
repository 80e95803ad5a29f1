"""The kernel distance between two sets of features: unlike the Fréchet distance, small sets do not raise it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


def kernel_distance(x: Tensor, y: Tensor) -> float:
    """Squared maximum mean discrepancy with the kernel ``(⟨a, b⟩/D + 1)³``, the unbiased estimate of all pairs.

    KID (Bińkowski et al. 2018, arXiv 1801.01401, section 4) without its subsets. Unbiased: it is below 0 as often as
    above it for sets of one origin, and sets of different sizes may be compared. Float64 throughout.

    Args:
        x: (n,D) floating, n >= 2.
        y: (m,D) floating, m >= 2.

    Raises:
        ValueError: fewer than two rows, or other shapes.
    """
    _check(x, y, least=2)
    return KernelSums.of([x], [y]).distance([0])


def kernel_distance_of_subsets(
    x: Tensor, y: Tensor, *, size: int, seed: int, subsets: int = 100
) -> tuple[float, float]:
    """KID as it is published: the mean and the standard deviation over draws of `size` rows of each set.

    The mean estimates what `kernel_distance` does, with more noise; the deviation belongs to sets of that size, and
    is no error of the mean.

    Args:
        x: (n,D) floating, n >= `size`.
        y: (m,D) floating, m >= `size`.
        size: rows of each draw, without replacement, >= 2; 1000 in most papers.
        seed: of the draws.
        subsets: how many draws.

    Raises:
        ValueError: fewer rows than `size`, a size below 2, or other shapes.
    """
    if size < 2:
        raise ValueError(f"kernel_distance_of_subsets: size: expected at least 2, got {size}")
    _check(x, y, least=size)
    rng = np.random.default_rng(seed)
    found = [
        kernel_distance(x[rng.permutation(len(x))[:size]], y[rng.permutation(len(y))[:size]]) for _ in range(subsets)
    ]
    return float(np.mean(found)), float(np.std(found))


@dataclass(frozen=True)
class KernelSums:
    """Sums of the kernel between classes, from which the distance of any draw of classes follows without the images.

    Attributes:
        x: (C,C), of all pairs of an image of one class and an image of another, or the same, in the first set.
        y: (C,C), the same in the second set.
        across: (C,C), of all pairs of an image of a class in the first set and one of a class in the second.
        x_alone: (C,), of every image in the first set with itself.
        y_alone: (C,), the same in the second set.
        x_counts: (C,), images of each class in the first set.
        y_counts: (C,), the same in the second set.
    """

    x: Tensor
    y: Tensor
    across: Tensor
    x_alone: Tensor
    y_alone: Tensor
    x_counts: Tensor
    y_counts: Tensor

    @classmethod
    def of(cls, x: Sequence[Tensor], y: Sequence[Tensor]) -> KernelSums:
        """Of two sets, features (n,D) of each class."""
        x, y = [f.double() for f in x], [f.double() for f in y]
        return cls(
            *(_between(a, b) for a, b in ((x, x), (y, y), (x, y))),
            *(torch.stack([(_kernel(f.square().sum(1), f.shape[1])).sum() for f in fs]) for fs in (x, y)),
            *(torch.tensor([len(f) for f in fs], dtype=torch.float64) for fs in (x, y)),
        )

    def distance(self, classes: Sequence[int]) -> float:
        """`kernel_distance` of the pooled images of some classes; those of a class drawn twice count twice."""
        times = torch.bincount(torch.tensor(list(classes)), minlength=len(self.x)).double()
        n, m = times @ self.x_counts, times @ self.y_counts
        x = (times @ self.x @ times - times @ self.x_alone) / (n * (n - 1))
        y = (times @ self.y @ times - times @ self.y_alone) / (m * (m - 1))
        return float(x + y - 2 * (times @ self.across @ times) / (n * m))


def _between(x: Sequence[Tensor], y: Sequence[Tensor]) -> Tensor:
    pooled, sizes = torch.cat(list(y)), [len(f) for f in y]
    rows = (_kernel(f @ pooled.T, f.shape[1]).sum(0) for f in x)  # a class at a time: all pairs may not fit
    return torch.stack([torch.stack([part.sum() for part in row.split(sizes)]) for row in rows])


def _kernel(products: Tensor, dimensions: int) -> Tensor:
    return (products / dimensions + 1) ** 3


def _check(x: Tensor, y: Tensor, *, least: int) -> None:
    for name, features in (("x", x), ("y", y)):
        if features.dim() != 2 or len(features) < least:
            raise ValueError(
                f"kernel_distance: {name}: expected shape ({least} or more, D), got {tuple(features.shape)}"
            )
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"kernel_distance: y: expected {x.shape[1]} dimensions like x, got {y.shape[1]}")
