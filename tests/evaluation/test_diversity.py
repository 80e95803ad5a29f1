"""Pairwise distances, effective numbers and distances to references, against pair-by-pair loops and known cases."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from pyeqgan.evaluation.diversity import (
    effective_number,
    mean_pairwise_distance,
    nearest_neighbour_distance,
    nearest_reference_distance,
    pairwise_distances,
)


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_pairwise_is_the_loop_over_pairs(offset: float) -> None:
    x = torch.randn(17, 5, dtype=torch.float64) + offset
    pairs = [float((a - b).norm()) for a, b in itertools.combinations(x, 2)]
    assert mean_pairwise_distance(x) == pytest.approx(sum(pairs) / len(pairs), rel=1e-9)
    nearest = [min(float((a - b).norm()) for j, b in enumerate(x) if j != i) for i, a in enumerate(x)]
    assert nearest_neighbour_distance(x) == pytest.approx(sum(nearest) / len(nearest), rel=1e-9)


def test_pairwise_distances_are_symmetric_and_zero_on_the_diagonal() -> None:
    distances = pairwise_distances(torch.randn(30, 64))
    assert distances.dtype == torch.float64
    assert torch.equal(distances, distances.T)
    assert not distances.diagonal().any()


def test_copies_keep_a_known_part_of_the_spread() -> None:
    x = torch.randn(5, 8, dtype=torch.float64)
    copies = x.repeat(20, 1)  # of 100·99 ordered pairs, 100·80 are of different images
    assert mean_pairwise_distance(copies) == pytest.approx(mean_pairwise_distance(x) * 80 / 99, rel=1e-6)


def test_effective_number_of_known_sets() -> None:
    x = torch.eye(6, dtype=torch.float64) * 100
    assert effective_number(x, 1.0) == pytest.approx(6)  # all different
    assert effective_number(x, 1e6) == pytest.approx(1)  # all alike
    assert effective_number(x[:1], 1.0) == pytest.approx(1)
    assert effective_number(x[:3].repeat(7, 1), 1.0) == pytest.approx(3)  # copies add nothing
    # two images, similarity k: eigenvalues (1 ± k)/2
    k = torch.tensor(-0.5, dtype=torch.float64).exp()
    shares = torch.stack([1 + k, 1 - k]) / 2
    expected = float((-(shares * shares.log()).sum()).exp())
    assert effective_number(torch.tensor([[0.0], [2.0]]), 2.0) == pytest.approx(expected)


def test_effective_number_is_bounded_by_the_distinct_images() -> None:
    x = torch.randn(4, 8, dtype=torch.float64)
    few, many = x[torch.arange(12) % 4], x[torch.arange(120) % 4]
    assert 1 <= effective_number(few, 0.5) <= 4 + 1e-6
    assert effective_number(many, 0.5) == pytest.approx(effective_number(few, 0.5), rel=1e-6)


def test_nearest_reference() -> None:
    references = torch.rand(3, 3, 8, 6) * 2 - 1
    images = torch.rand(5, 3, 8, 6) * 2 - 1
    expected = torch.stack([min((image - r).abs().mean() for r in references) for image in images])
    assert torch.allclose(nearest_reference_distance(images, references), expected)
    assert not nearest_reference_distance(references[[2, 0, 2]], references).any()  # copies are at exactly 0
    assert nearest_reference_distance(images[:0], references).shape == (0,)


@pytest.mark.parametrize("function", [mean_pairwise_distance, nearest_neighbour_distance])
def test_one_image_has_no_pairs(function: object) -> None:
    with pytest.raises(ValueError, match=r"expected shape \(2 or more, D\), got \(1, 4\)"):
        function(torch.zeros(1, 4))  # type: ignore[operator]


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan")])
def test_effective_number_needs_a_scale(scale: float) -> None:
    with pytest.raises(ValueError, match="scale: expected a number above 0"):
        effective_number(torch.zeros(2, 4), scale)


@pytest.mark.parametrize(
    ("images", "references"),
    [
        (torch.zeros(2, 3, 4, 4), torch.zeros(0, 3, 4, 4)),
        (torch.zeros(2, 3, 4, 4), torch.zeros(1, 3, 4, 5)),
        (torch.zeros(3, 4, 4), torch.zeros(1, 3, 4, 4)),
    ],
)
def test_nearest_reference_refuses_other_shapes(images: Tensor, references: Tensor) -> None:
    with pytest.raises(ValueError, match="nearest_reference_distance"):
        nearest_reference_distance(images, references)
