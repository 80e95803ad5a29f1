"""Precision and recall against loops, torch-fidelity, and sets whose answer is known."""

from __future__ import annotations

import pytest
import torch
from published_weights import installed
from torch import Tensor

from pyeqgan.evaluation.manifold import precision_recall, within_manifold


def by_loops(features: Tensor, manifold: Tensor, k: int) -> list[bool]:
    radii = [
        sorted(float((a - b).norm()) for j, b in enumerate(manifold) if j != i)[k - 1] for i, a in enumerate(manifold)
    ]
    return [any(float((f - m).norm()) <= r for m, r in zip(manifold, radii, strict=True)) for f in features]


@pytest.mark.parametrize("neighbours", [1, 3, 5])
def test_it_is_what_loops_find(neighbours: int) -> None:
    x, y = torch.randn(12, 3), torch.randn(20, 3) + 0.7
    inside = within_manifold(x, y, neighbours=neighbours)
    assert inside.tolist() == by_loops(x.double(), y.double(), neighbours)
    assert precision_recall(x, y, neighbours=neighbours) == (
        float(inside.double().mean()),
        float(within_manifold(y, x, neighbours=neighbours).double().mean()),
    )


def test_it_agrees_with_torch_fidelity() -> None:
    x, y = torch.randn(90, 8).double(), torch.randn(70, 8).double() * 1.2
    y[:, 0] += 3  # so that neither all nor none of the one lie near the other
    theirs = installed("torch_fidelity.metric_prc").calculate_precision_recall_full(x, y, 3)
    assert 0 < theirs[0] < 1 and 0 < theirs[1] < 1
    assert precision_recall(x, y) == pytest.approx(theirs, abs=1e-5)


def test_known_sets() -> None:
    x = torch.randn(20, 4)
    assert precision_recall(x, x) == (1, 1)
    assert precision_recall(x, x + 1000) == (0, 0)
    assert precision_recall(x[:5], x)[0] == 1  # copies are real
    assert precision_recall(x[:1].repeat(9, 1), x)[1] == 1 / 20  # and reach themselves alone


def test_it_does_not_depend_on_the_rows_taken_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = torch.randn(33, 5), torch.randn(29, 5)
    expected = precision_recall(x, y)
    monkeypatch.setattr("pyeqgan.evaluation.manifold.ROWS", 4)
    assert precision_recall(x, y) == expected


def test_too_few_images_and_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="expected more than 3 rows for the neighbour 3, got 3"):
        precision_recall(torch.zeros(9, 2), torch.zeros(3, 2))
    with pytest.raises(ValueError, match=r"expected features \(n,D\) and manifold \(m,D\), got \(9, 2\) and \(9, 3\)"):
        within_manifold(torch.zeros(9, 2), torch.zeros(9, 3))
