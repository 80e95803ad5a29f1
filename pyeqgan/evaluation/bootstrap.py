"""Intervals: how much a number depends on which classes were drawn, or on the seed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

# Student's t for 95 % intervals of 2 to 10 values.
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


@dataclass(frozen=True)
class Estimate:
    """A number and its 95 % interval, low and high; None where one class or seed tells nothing about others."""

    value: float
    interval: tuple[float, float] | None


def bootstrap(
    statistic: Callable[[Sequence[int]], float],
    classes: int,
    *,
    seed: int | None,
    replicates: int = 1000,
    bounds: tuple[float, float] = (-math.inf, math.inf),
) -> Estimate:
    """A statistic of all classes, with the percentile bootstrap over classes (Efron 1979), less its bias.

    Classes are drawn, not images: the images of a class are no independent witnesses of what happens in another.
    A draw that repeats classes raises a distance of pooled sets; the interval is shifted by the difference of the
    draws' mean from the statistic, which leaves means as they are. With few classes it is too narrow. Two statistics
    given the same seed meet the same draws.

    Args:
        statistic: called with class indices, some repeated; NaN where it does not exist for these classes, a draw
            that is left out.
        classes: how many there are, >= 1.
        seed: of the draws; None for no interval.
        replicates: number of draws.
        bounds: lowest and highest value there can be; the shift may not take the interval beyond them.
    """
    value = statistic(range(classes))
    if classes == 1 or seed is None:
        return Estimate(value, None)
    draws = np.random.default_rng(seed).integers(classes, size=(replicates, classes))
    drawn = np.array([statistic(draw.tolist()) for draw in draws])
    drawn = drawn[~np.isnan(drawn)]
    low, high = np.clip(np.quantile(drawn, (0.025, 0.975)) - (drawn.mean() - value), *bounds)
    return Estimate(value, (float(low), float(high)))


def bootstrap_mean(values: Sequence[float], *, seed: int | None) -> Estimate:
    """The mean of one value per class, with its interval."""
    bounds = min(values), max(values)
    return bootstrap(lambda drawn: float(np.mean([values[c] for c in drawn])), len(values), seed=seed, bounds=bounds)


def over_seeds(values: Sequence[float], bounds: tuple[float, float] = (-math.inf, math.inf)) -> Estimate:
    """The mean of one value per seed, with Student's interval for it; of more than ten values a little too wide.

    Args:
        values: one a seed.
        bounds: lowest and highest value there can be.
    """
    mean = float(np.mean(values))
    if len(values) == 1:
        return Estimate(mean, None)
    half = STUDENT[min(len(values), 10) - 2] * float(np.std(values, ddof=1)) / len(values) ** 0.5
    return Estimate(mean, (max(mean - half, bounds[0]), min(mean + half, bounds[1])))
