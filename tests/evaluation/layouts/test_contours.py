"""Edge F1 with a tolerance, by hand and by distances."""

from __future__ import annotations

import math

import pytest
import torch

from pyeqgan.evaluation.layouts import edge_counts, edge_f1, edge_precision, edge_recall


def points(*places: tuple[int, int]) -> torch.Tensor:
    edges = torch.zeros(1, 9, 9, dtype=torch.bool)
    for row, column in places:
        edges[0, row, column] = True
    return edges


def test_by_hand() -> None:
    drawn = points((4, 4), (0, 0), (4, 5), (8, 0))
    target = points((4, 6), (0, 8), (0, 2))
    counts = edge_counts(drawn, target, 2)
    assert counts.tolist() == [[3, 4, 2, 3]]
    assert edge_precision(counts) == 3 / 4
    assert edge_recall(counts) == 2 / 3
    assert edge_f1(counts) == pytest.approx(2 * (3 / 4) * (2 / 3) / (3 / 4 + 2 / 3))


@pytest.mark.parametrize(
    ("step", "near"),
    [((0, 2), True), ((2, 0), True), ((1, 1), True), ((1, 2), False), ((2, 2), False), ((0, 3), False)],
)
def test_near_is_within_a_disc(step: tuple[int, int], near: bool) -> None:
    assert edge_f1(edge_counts(points((4, 4)), points((4 + step[0], 4 + step[1])), 2)) == float(near)


@pytest.mark.parametrize("tolerance", [0, 1, 2, 3])
def test_it_is_what_distances_say(tolerance: int) -> None:
    drawn, target = torch.rand(2, 3, 13, 17) < 0.05
    for counts, a, b in zip(edge_counts(drawn, target, tolerance), drawn, target, strict=True):
        near = torch.cdist(a.nonzero().double(), b.nonzero().double()) <= tolerance + 1e-9
        expected = [near.any(1).sum(), a.sum(), near.any(0).sum(), b.sum()]
        assert counts.tolist() == [int(x) for x in expected]


def test_images_are_pooled() -> None:
    drawn, target = torch.cat([points((1, 1)), points((1, 1), (5, 5), (8, 8))]), points((1, 1)).repeat(2, 1, 1)
    assert edge_precision(edge_counts(drawn, target)) == 2 / 4


def test_empty_sets() -> None:
    some, none = points((4, 4)), points()
    assert math.isnan(edge_f1(edge_counts(none, none)))
    assert edge_f1(edge_counts(some, none)) == 0 and math.isnan(edge_recall(edge_counts(some, none)))
    assert edge_f1(edge_counts(none, some)) == 0 and math.isnan(edge_precision(edge_counts(none, some)))


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"drawn: expected \(n,H,W\) bool, got \(1, 9, 9\) torch.float32"):
        edge_counts(points().float(), points())
    with pytest.raises(ValueError, match=r"target: expected \(n,H,W\) bool, got \(1, 9, 8\)"):
        edge_counts(points(), points()[:, :, :8])
