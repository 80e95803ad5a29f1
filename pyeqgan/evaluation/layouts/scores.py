"""The metrics of one painter, from what was counted and seen of its images, with intervals over images."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from pyeqgan.evaluation.bootstrap import Estimate, bootstrap, over_seeds
from pyeqgan.evaluation.frechet import frechet_distance
from pyeqgan.evaluation.layouts.agreement import class_iou, mean_iou, pixel_accuracy
from pyeqgan.evaluation.layouts.contours import edge_f1, edge_precision, edge_recall
from pyeqgan.evaluation.layouts.trial import Looks
from pyeqgan.evaluation.pooled import FRECHET_REPLICATES, FRECHET_REPLICATES_WIDE, WIDE
from pyeqgan.evaluation.result import Scores

COMPARED = ("miou", "real_edges", "frechet")
REPLICATES = 1000
SHARE = (0.0, 1.0)


@dataclass(frozen=True)
class Statistic:
    """A number of some images.

    Attributes:
        of: the number of these images, some repeated; NaN if it does not exist.
        images: how many there are.
        bounds: lowest and highest value there can be.
        replicates: how often images are drawn for its interval.
    """

    of: Callable[[Sequence[int]], float]
    images: int
    bounds: tuple[float, float] = SHARE
    replicates: int = REPLICATES

    def estimate(self, seed: int | None) -> Estimate | None:
        """The number of all images with its interval; None if it does not exist."""
        if math.isnan(self.of(range(self.images))):
            return None
        return bootstrap(self.of, self.images, seed=seed, replicates=self.replicates, bounds=self.bounds)

    def minus(self, other: Statistic) -> Statistic:
        """The difference, both of the same images."""
        low, high = (a - b for a, b in zip(self.bounds, reversed(other.bounds), strict=True))
        return Statistic(
            lambda drawn: self.of(drawn) - other.of(drawn),
            self.images,
            (low, high),
            min(self.replicates, other.replicates),
        )


@dataclass(frozen=True)
class Target:
    """Features of the real images that a painter's images are compared with, row by row of the same layouts.

    Attributes:
        features: (n,S,64) of the segmenters.
        inception: (n,2048), or (n,0).
    """

    features: Tensor
    inception: Tensor


def statistics(looks: Looks, target: Target, segmenter: int = 0) -> dict[str, Statistic]:
    """Every number of one painter by its name in `result.METRICS`, and precision and recall of its edges."""
    n = len(looks.counts)
    counts = looks.counts[:, segmenter]
    found = {
        "miou": Statistic(lambda drawn: mean_iou(counts[drawn]), n),
        "accuracy": Statistic(lambda drawn: pixel_accuracy(counts[drawn]), n),
        "frechet": _frechet(looks.features[:, segmenter], target.features[:, segmenter]),
    }
    for name, edges in (("own_edges", looks.own_edges), ("real_edges", looks.real_edges)):
        for ending, share in (("", edge_f1), ("_precision", edge_precision), ("_recall", edge_recall)):
            found[name + ending] = Statistic(_over(share, edges), n)
    if looks.inception.shape[1]:
        found["fid"] = _frechet(looks.inception, target.inception)
    if looks.lpips.shape[1]:
        found["lpips"] = Statistic(lambda drawn: float(looks.lpips[drawn].mean()), n, (0.0, math.inf))
    return found


def score(looks: Looks, target: Target, class_names: Sequence[str], *, seed: int) -> Scores:
    """The numbers of one painter with intervals over images, as the first segmenter sees them.

    Args:
        looks: of its images.
        target: of the real images.
        class_names: one per class, all different.
        seed: of the intervals.
    """
    iou = class_iou(looks.counts[:, 0]).tolist()
    return Scores(
        images=len(looks.counts),
        estimates={name: statistic.estimate(seed) for name, statistic in statistics(looks, target).items()},
        by_class={
            name: {"iou": None if math.isnan(value) else value} for name, value in zip(class_names, iou, strict=True)
        },
    )


def differences(ours: Looks, other: Looks, target: Target, *, seed: int) -> dict[str, Estimate | None]:
    """Ours minus the other's, of the same layouts."""
    a, b = statistics(ours, target), statistics(other, target)
    return {name: a[name].minus(b[name]).estimate(seed) for name in COMPARED}


def over_segmenters(looks: Looks, target: Target) -> dict[str, Estimate | None]:
    """What segmenters of several seeds say of one painter: mean and interval of what depends on them."""
    found: dict[str, Estimate | None] = {}
    by_segmenter = [statistics(looks, target, s) for s in range(looks.counts.shape[1])]
    for name in ("miou", "accuracy", "frechet"):
        values = [numbers[name].of(range(numbers[name].images)) for numbers in by_segmenter]
        found[name] = None if any(map(math.isnan, values)) else over_seeds(values, by_segmenter[0][name].bounds)
    return found


def edges_everywhere(looks: Looks) -> dict[str, float | None]:
    """F1 that an edge in every pixel reaches, by the names of the metrics."""
    values = {name: edge_f1(looks.everywhere[:, i]) for i, name in enumerate(("own_edges", "real_edges"))}
    return {name: None if math.isnan(value) else value for name, value in values.items()}


def _over(share: Callable[[Tensor], float], counts: Tensor) -> Callable[[Sequence[int]], float]:
    return lambda drawn: share(counts[drawn]) if counts.shape[1] else math.nan


def _frechet(features: Tensor, target: Tensor) -> Statistic:
    """Fréchet distance of as many rows as both have; NaN of a single one, which has no covariance."""
    n = min(len(features), len(target))
    wide = features.shape[1] > WIDE
    return Statistic(
        lambda drawn: frechet_distance(features[drawn], target[drawn]) if len(drawn) > 1 else math.nan,
        n,
        (0.0, math.inf),
        FRECHET_REPLICATES_WIDE if wide else FRECHET_REPLICATES,
    )
