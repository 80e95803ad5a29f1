"""The kernel distance against its definition, torch-fidelity and torchmetrics."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from published_weights import installed
from torch import Tensor

from pyeqgan.evaluation import kernel_distance, kernel_distance_of_subsets
from pyeqgan.evaluation.kernel import KernelSums


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64) * torch.rand(shape[-1]).double() * 3 + 0.5


def by_definition(x: Tensor, y: Tensor) -> float:
    def kernel(a: Tensor, b: Tensor) -> float:
        return (float(a @ b) / len(a) + 1) ** 3

    within = [np.mean([kernel(a, b) for a, b in itertools.permutations(s, 2)]) for s in (x, y)]
    return float(sum(within) - 2 * np.mean([kernel(a, b) for a, b in itertools.product(x, y)]))


def test_it_is_the_mean_over_pairs_of_different_images() -> None:
    x, y = drawn(7, 5), drawn(11, 5)
    assert kernel_distance(x, y) == pytest.approx(by_definition(x, y), rel=1e-9)
    assert kernel_distance(y, x) == pytest.approx(kernel_distance(x, y), rel=1e-9)
    assert kernel_distance(x.float(), y.float()) == pytest.approx(kernel_distance(x, y), rel=1e-4)


def test_it_agrees_with_torchmetrics_and_torch_fidelity() -> None:
    x, y = drawn(40, 64), drawn(40, 64)
    assert kernel_distance(x, y) == pytest.approx(float(installed("torchmetrics.image.kid").poly_mmd(x, y)), rel=1e-5)
    fidelity = installed("torch_fidelity.metric_kid").kernel_mmd(x.numpy(), y.numpy())
    assert kernel_distance(x, y) == pytest.approx(float(fidelity), rel=1e-5)


def test_subsets_are_as_torch_fidelity_measures_them() -> None:
    x, y = drawn(30, 16), drawn(50, 16)
    mmd, rng = installed("torch_fidelity.metric_kid").kernel_mmd, np.random.default_rng(3)
    found = [mmd(x[rng.permutation(30)[:12]].numpy(), y[rng.permutation(50)[:12]].numpy()) for _ in range(20)]
    mean, deviation = kernel_distance_of_subsets(x, y, size=12, seed=3, subsets=20)
    assert (mean, deviation) == pytest.approx((np.mean(found), np.std(found)), rel=1e-5)


def test_the_mean_over_subsets_tends_to_the_distance_of_all() -> None:
    x, y = drawn(30, 4), drawn(30, 4) + 1
    mean, deviation = kernel_distance_of_subsets(x, y, size=20, seed=0, subsets=2000)
    assert abs(mean - kernel_distance(x, y)) < 6 * deviation / 2000**0.5


def test_small_sets_of_one_origin_do_not_raise_it() -> None:
    found = [kernel_distance(*torch.randn(2, 4, 3, dtype=torch.float64)) for _ in range(4000)]
    assert abs(np.mean(found)) < 6 * np.std(found) / 4000**0.5


def test_drawing_classes_is_pooling_their_images() -> None:
    x, y = ([drawn(n, 6) for n in counts] for counts in ((3, 5, 4), (6, 2, 7)))
    sums = KernelSums.of(x, y)
    for classes in ([0, 1, 2], [2, 2, 0], [1]):
        pooled = kernel_distance(torch.cat([x[c] for c in classes]), torch.cat([y[c] for c in classes]))
        assert sums.distance(classes) == pytest.approx(pooled, rel=1e-9)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (torch.zeros(1, 3), torch.zeros(4, 3), r"x: expected shape \(2 or more, D\), got \(1, 3\)"),
        (torch.zeros(4, 3), torch.zeros(3), r"y: expected shape \(2 or more, D\), got \(3,\)"),
        (torch.zeros(4, 3), torch.zeros(4, 2), "y: expected 3 dimensions like x, got 2"),
    ],
)
def test_other_shapes_are_refused(x: Tensor, y: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kernel_distance(x, y)


def test_subsets_of_more_than_there_is_are_refused() -> None:
    with pytest.raises(ValueError, match=r"x: expected shape \(5 or more, D\), got \(4, 3\)"):
        kernel_distance_of_subsets(torch.zeros(4, 3), torch.zeros(9, 3), size=5, seed=0)
    with pytest.raises(ValueError, match="size: expected at least 2, got 1"):
        kernel_distance_of_subsets(torch.zeros(4, 3), torch.zeros(9, 3), size=1, seed=0)
