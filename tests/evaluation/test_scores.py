"""Who is compared with whom."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pyeqgan.evaluation.bootstrap import Estimate
from pyeqgan.evaluation.diversity import effective_number, mean_pairwise_distance, nearest_neighbour_distance
from pyeqgan.evaluation.frechet import frechet_distance
from pyeqgan.evaluation.kernel import kernel_distance
from pyeqgan.evaluation.manifold import precision_recall
from pyeqgan.evaluation.result import Scores
from pyeqgan.evaluation.scores import Images, RealFeatures, differences, score

CLASSES = ("a", "b", "c")


def value(scores: Scores, metric: str) -> float:
    estimate = scores.estimates[metric]
    assert isinstance(estimate, Estimate)
    return estimate.value


@pytest.fixture
def real() -> RealFeatures:
    found = RealFeatures()
    for c in range(3):
        fit, held_out = torch.randn(2, 9, 4, dtype=torch.float64) + torch.eye(4)[c].double() * 4
        found.add(fit, held_out)
    return found


def images_of(features: list[Tensor]) -> Images:
    found = Images()
    for c, f in enumerate(features):
        found.add(f, f[:5] * 2, 0.1 * c)
    return found


def test_generated_images_meet_all_real_ones(real: RealFeatures) -> None:
    fakes = [torch.randn(7, 4, dtype=torch.float64) + torch.eye(4)[c].double() * 3 for c in range(3)]
    scores = score("generator", images_of(fakes), real, CLASSES, seed=0)
    assert scores.images == 21
    expected = frechet_distance(torch.cat(fakes), torch.cat([*real.fit, *real.held_out]))
    assert value(scores, "frechet") == pytest.approx(expected, rel=1e-10)
    everything = torch.cat([*real.fit, *real.held_out])
    assert value(scores, "kernel") == pytest.approx(kernel_distance(torch.cat(fakes), everything), rel=1e-10)
    precision, recall = precision_recall(torch.cat(fakes), everything)
    assert (value(scores, "precision"), value(scores, "recall")) == pytest.approx((precision, recall))
    assert sum(scores.by_class[c]["precision"] for c in CLASSES) / 3 == pytest.approx(precision)  # type: ignore[misc]
    assert scores.kernel_subsets is not None and scores.kernel_subsets["size"] == 10  # half of the smaller set
    assert value(scores, "pairwise") == pytest.approx(sum(map(mean_pairwise_distance, fakes)) / 3)
    assert value(scores, "nearest_reference") == pytest.approx(0.1)
    scale = sum(map(nearest_neighbour_distance, real.fit)) / 3
    assert scores.by_class["b"]["distinct"] == effective_number(fakes[1][:5] * 2, scale)  # of the few


def test_real_images_meet_the_other_half_only(real: RealFeatures) -> None:
    scores = score("real", images_of(real.held_out), real, CLASSES, seed=0)
    assert value(scores, "frechet") == pytest.approx(frechet_distance(torch.cat(real.held_out), torch.cat(real.fit)))


def test_accuracy_is_by_the_means_of_the_first_half(real: RealFeatures) -> None:
    real.held_out = [h + 100 for h in real.held_out]  # would spoil the means
    means = [f.mean(0, keepdim=True) for f in real.fit]
    scores = score("generator", images_of([means[0], means[2], means[2]]), real, CLASSES, seed=0)
    assert [scores.by_class[c]["accuracy"] for c in CLASSES] == [1, 0, 1]


def test_differences_are_paired(real: RealFeatures) -> None:
    fakes = [torch.randn(6, 4, dtype=torch.float64) * (c + 1) for c in range(3)]
    ours = score("generator", images_of([2 * f for f in fakes]), real, CLASSES, seed=0)
    copy = score("copy", images_of(fakes), real, CLASSES, seed=0)
    found = differences(ours, copy, seed=0)
    assert found.keys() == {"accuracy", "pairwise", "distinct"}
    assert found["pairwise"] is not None
    assert found["pairwise"].value == pytest.approx(value(copy, "pairwise"))
    assert all(d is not None and d.value == 0 for d in differences(copy, copy, seed=0).values())


def test_what_does_not_exist_is_none(real: RealFeatures) -> None:
    one = RealFeatures(real.fit[:1], real.held_out[:1])
    images = Images()
    images.add(torch.zeros(1, 4, dtype=torch.float64), torch.zeros(1, 4, dtype=torch.float64), 0.5)
    scores = score("generator", images, one, ["a"], seed=0)
    assert [m for m, e in scores.estimates.items() if e is not None] == ["precision", "nearest_reference"]
    assert set(differences(scores, scores, seed=0).values()) == {None}
