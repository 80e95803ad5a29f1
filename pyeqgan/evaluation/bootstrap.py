"""Intervals: how much a number depends on which classes were drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Estimate:
    """A number and its 95 % interval, low and high; None where one class tells nothing about others."""

    value: float
    interval: tuple[float, float] | None


def bootstrap(
    statistic: Callable[[Sequence[int]], float], classes: int, *, seed: int, replicates: int = 1000
) -> Estimate:
    """A statistic of all classes, with the percentile bootstrap over classes (Efron 1979), less its bias.

    Classes are drawn, not images: the images of a class are no independent witnesses of what happens in another.
    A draw that repeats classes raises a distance of pooled sets; the interval is shifted by the difference of the
    draws' mean from the statistic, which leaves means as they are. With few classes it is too narrow. Two statistics
    given the same seed meet the same draws.

    Args:
        statistic: called with class indices, some repeated.
        classes: how many there are, >= 1.
        seed: of the draws.
        replicates: number of draws.
    """
    value = statistic(range(classes))
    if classes == 1:
        return Estimate(value, None)
    draws = np.random.default_rng(seed).integers(classes, size=(replicates, classes))
    drawn = np.array([statistic(draw.tolist()) for draw in draws])
    low, high = np.quantile(drawn, (0.025, 0.975)) - (drawn.mean() - value)
    return Estimate(value, (float(low), float(high)))


def bootstrap_mean(values: Sequence[float], *, seed: int) -> Estimate:
    """The mean of one value per class, with its interval."""
    return bootstrap(lambda classes: float(np.mean([values[c] for c in classes])), len(values), seed=seed)
