"""Intervals over classes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from pyeqgan.evaluation.bootstrap import Estimate, bootstrap, bootstrap_mean, over_seeds
from pyeqgan.evaluation.pooled import share


def test_one_class_has_no_interval() -> None:
    assert bootstrap_mean([3.0], seed=0) == Estimate(3.0, None)


def test_equal_classes_leave_no_doubt() -> None:
    assert bootstrap_mean([0.25] * 7, seed=0) == Estimate(0.25, (0.25, 0.25))


def test_interval_of_a_mean_is_the_normal_one_for_many_classes() -> None:
    values = np.random.default_rng(5).normal(2.0, 3.0, 200).tolist()
    estimate = bootstrap_mean(values, seed=1)
    assert estimate.interval is not None
    low, high = estimate.interval
    half = 1.96 * float(np.std(values)) / 200**0.5
    assert estimate.value == pytest.approx(np.mean(values))
    assert (high - low) / 2 == pytest.approx(half, rel=0.1)
    assert (high + low) / 2 == pytest.approx(estimate.value, abs=half / 5)


def test_seeds() -> None:
    values = list(map(float, range(9)))
    assert bootstrap_mean(values, seed=3) == bootstrap_mean(values, seed=3)
    assert bootstrap_mean(values, seed=3) != bootstrap_mean(values, seed=4)


def test_bias_of_repeated_classes_is_taken_off() -> None:
    # The number of different classes is never above that of the draw: a plain percentile interval would miss it.
    estimate = bootstrap(lambda classes: float(len(set(classes))), 20, seed=0)
    assert estimate.value == 20
    assert estimate.interval is not None
    low, high = estimate.interval
    assert low < 20 < high


@pytest.mark.parametrize("seed", range(5))
def test_an_interval_of_shares_stays_within_them(seed: int) -> None:
    interval = bootstrap_mean([1.0, 0.0, 0.0], seed=seed).interval
    assert interval is not None and interval[0] >= 0 and interval[1] <= 1
    found = share([torch.ones(4), torch.zeros(4), torch.zeros(4)], seed=seed)
    assert found is not None and found.interval is not None
    assert found.interval[0] >= 0 and found.interval[1] <= 1


def test_over_seeds_is_students_interval() -> None:
    # mean 3, standard deviation 1.5811, t(0.975, 4) = 2.7764
    found = over_seeds([1, 2, 3, 4, 5])
    assert found.value == 3 and found.interval == pytest.approx((3 - 1.9632, 3 + 1.9632), abs=1e-3)
    assert over_seeds([2.0]) == Estimate(2.0, None)


@pytest.mark.parametrize("seeds", [2, 5, 10, 30])
def test_the_interval_over_seeds_covers_the_truth(seeds: int) -> None:
    found = [over_seeds(values).interval for values in torch.randn(4000, seeds).tolist()]
    covered = sum(low <= 0 <= high for low, high in found if found) / 4000  # type: ignore[misc]
    deviation = (0.95 * 0.05 / 4000) ** 0.5
    assert 0.95 - 6 * deviation < covered
    assert covered < (0.95 + 6 * deviation if seeds <= 10 else 0.99)


def test_draws_of_which_there_is_no_number_are_left_out() -> None:
    values = [1.0, 2.0, math.nan, 3.0]

    def mean(drawn: Sequence[int]) -> float:
        known = [values[c] for c in drawn if not math.isnan(values[c])]
        return float(np.mean(known)) if known else math.nan

    estimate = bootstrap(mean, 4, seed=0, bounds=(1, 3))
    assert estimate.value == 2 and estimate.interval is not None
    assert 1 <= estimate.interval[0] < 2 < estimate.interval[1] <= 3
