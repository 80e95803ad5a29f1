"""The Fréchet distance against closed forms, against 60 digits, and where the textbook formula breaks."""

from __future__ import annotations

import mpmath
import pytest
import torch
from torch import Tensor

from pyeqgan.evaluation import frechet_distance


def sample(n: int, dimensions: int) -> Tensor:
    """Correlated features with a mean, float64."""
    mixed = torch.randn(n, dimensions, dtype=torch.float64) @ torch.randn(dimensions, dimensions, dtype=torch.float64)
    return mixed + torch.randn(dimensions, dtype=torch.float64)


def with_moments(n: int, mean: Tensor, deviations: Tensor) -> Tensor:
    """Features whose sample mean and (diagonal, unbiased) covariance are exactly those given."""
    x = torch.randn(n, len(mean), dtype=torch.float64)
    q = torch.linalg.qr(x - x.mean(0)).Q  # centred and orthonormal
    return q * (n - 1) ** 0.5 * deviations + mean


def rotation(dimensions: int) -> Tensor:
    return torch.linalg.qr(torch.randn(dimensions, dimensions, dtype=torch.float64)).Q


def textbook(x: Tensor, y: Tensor) -> float:
    """‖μx − μy‖² + tr Σx + tr Σy − 2 Σ sqrt(eigenvalues of Σx Σy), in 60 digits and by other means than ours."""
    with mpmath.workdps(60):
        moments = []
        for features in (x, y):
            rows = mpmath.matrix(features.tolist())
            n, d = rows.rows, rows.cols
            mean = [mpmath.fsum(rows[i, j] for i in range(n)) / n for j in range(d)]
            centred = mpmath.matrix([[rows[i, j] - mean[j] for j in range(d)] for i in range(n)])
            moments.append((mean, centred.T * centred / (n - 1)))
        (mean_x, cov_x), (mean_y, cov_y) = moments
        eigenvalues = mpmath.eig(cov_x * cov_y, left=False, right=False)
        between = mpmath.fsum((a - b) ** 2 for a, b in zip(mean_x, mean_y, strict=True))
        trace = mpmath.fsum(cov_x[j, j] + cov_y[j, j] for j in range(cov_x.rows))
        cross = mpmath.fsum(mpmath.sqrt(max(mpmath.re(e), 0)) for e in eigenvalues)
        return float(between + trace - 2 * cross)


def test_closed_form_of_commuting_gaussians() -> None:
    means, deviations = torch.randn(2, 5, dtype=torch.float64), torch.rand(2, 5, dtype=torch.float64) + 0.1
    turn = rotation(5)
    x, y = (with_moments(n, m, s) @ turn for n, m, s in zip((40, 23), means, deviations, strict=True))
    expected = (means[0] - means[1]).square().sum() + (deviations[0] - deviations[1]).square().sum()
    assert frechet_distance(x, y) == pytest.approx(float(expected), rel=1e-12)


def test_one_dimension() -> None:
    x, y = torch.tensor([[0.0], [2.0]]), torch.tensor([[5.0], [13.0]])  # means 1 and 9, variances 2 and 32
    assert frechet_distance(x, y) == pytest.approx(64 + (2**0.5 - 32**0.5) ** 2, rel=1e-14)


@pytest.mark.parametrize(("n", "m", "dimensions"), [(30, 50, 6), (7, 9, 6), (3, 40, 6), (4, 3, 6), (2, 2, 3)])
def test_sixty_digits(n: int, m: int, dimensions: int) -> None:
    x, y = sample(n, dimensions), sample(m, dimensions)
    assert frechet_distance(x, y) == pytest.approx(textbook(x, y), rel=1e-11)


@pytest.mark.parametrize(("n", "m"), [(100, 80), (5, 80), (5, 3)])
def test_invariances(n: int, m: int) -> None:
    x, y = sample(n, 16), sample(m, 16)
    d = pytest.approx(frechet_distance(x, y), rel=1e-10)
    turn, shift = rotation(16), torch.randn(16, dtype=torch.float64)
    assert frechet_distance(y, x) == d
    assert frechet_distance(x[torch.randperm(n)], y[torch.randperm(m)]) == d
    assert frechet_distance(x @ turn + shift, y @ turn + shift) == d
    assert frechet_distance(3 * x, 3 * y) / 9 == d
    wide = rotation(116)[:16]  # the same sets in more dimensions than they have images
    assert frechet_distance(x @ wide, y @ wide) == d


@pytest.mark.parametrize(("n", "dimensions"), [(200, 64), (10, 64), (2, 64), (5, 1)])
def test_equal_sets_are_at_zero(n: int, dimensions: int) -> None:
    x = sample(n, dimensions)
    size = float(x.var(0).sum())
    assert frechet_distance(x, x) <= 1e-24 * size
    assert frechet_distance(x, x[torch.randperm(n)]) <= 1e-24 * size


def test_near_sets_do_not_cancel() -> None:
    x = sample(50, 8)
    x = x - x.mean(0)
    # tr Σx + tr Σy − 2 tr (Σx Σy)^½ would be lost in rounding, 1e-16 of its terms
    assert frechet_distance(x, x * (1 + 1e-7)) == pytest.approx(1e-14 * float(x.var(0).sum()), rel=1e-5)


def test_identical_images_have_no_spread() -> None:
    x, y = torch.ones(4, 3), torch.full((6, 3), 3.0)
    assert frechet_distance(x, y) == 12
    assert frechet_distance(x, x) == 0


def test_float32_is_computed_in_float64() -> None:
    x, y = sample(30, 8).float() + 1e3, sample(30, 8).float() + 1e3
    assert frechet_distance(x, y) == frechet_distance(x.double(), y.double())


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (torch.ones(1, 3), torch.ones(5, 3), r"x: expected shape \(2 or more, D\), got \(1, 3\)"),
        (torch.ones(5, 3), torch.ones(0, 3), r"y: expected shape \(2 or more, D\), got \(0, 3\)"),
        (torch.ones(5), torch.ones(5, 3), r"x: expected shape"),
        (torch.ones(5, 3), torch.ones(5, 4), r"y: expected 3 dimensions like x, got 4"),
        (torch.ones(5, 3), torch.full((5, 3), torch.nan), r"y: expected finite"),
    ],
)
def test_refusals(x: Tensor, y: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        frechet_distance(x, y)
