"""The metrics of one generator, from the features of its images and of the real ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from pyeqgan.evaluation.bootstrap import Estimate, bootstrap, bootstrap_mean
from pyeqgan.evaluation.classify import recognised
from pyeqgan.evaluation.diversity import effective_number, mean_pairwise_distance, nearest_neighbour_distance
from pyeqgan.evaluation.frechet import frechet_distance
from pyeqgan.evaluation.result import Scores

FRECHET_REPLICATES = 200
LEAST_SCALE = 1e-5  # features, of total variance 1, are float32: those of equal images differ by about 1e-7
COMPARED = ("accuracy", "pairwise", "distinct")


@dataclass
class Images:
    """The images of one generator, class by class.

    Attributes:
        features: (n,D), of images from all references.
        few: (m,D), of images all from the same few references; as many for every generator.
        nearest_reference: mean distance of the images from all references to the nearest one.
    """

    features: list[Tensor] = field(default_factory=list)
    few: list[Tensor] = field(default_factory=list)
    nearest_reference: list[float] = field(default_factory=list)

    def add(self, features: Tensor, few: Tensor, nearest_reference: float) -> None:
        """Append a class."""
        self.features.append(features)
        self.few.append(few)
        self.nearest_reference.append(nearest_reference)


@dataclass
class RealFeatures:
    """Features of the real images that are no references, class by class, in two halves."""

    fit: list[Tensor] = field(default_factory=list)
    held_out: list[Tensor] = field(default_factory=list)

    def add(self, fit: Tensor, held_out: Tensor) -> None:
        """Append a class."""
        self.fit.append(fit)
        self.held_out.append(held_out)

    def means(self) -> Tensor:
        """The mean of each class (classes,D), of the first half."""
        return torch.stack([features.mean(0) for features in self.fit])

    def scale(self) -> float:
        """Distance at which two images of a class count as different: of nearest neighbours, mean over classes."""
        return float(np.mean([nearest_neighbour_distance(features) for features in self.fit]))


def score(name: str, images: Images, real: RealFeatures, class_names: Sequence[str], *, seed: int) -> Scores:
    """The numbers of one generator with intervals over classes.

    Args:
        name: of the generator. "real" are the real images held out, and meets the other half only.
        images: of the generator.
        real: the images it is compared with.
        class_names: one per class, all different.
        seed: of the intervals.
    """
    if name == "real":
        targets = real.fit
    else:
        targets = [torch.cat(halves) for halves in zip(real.fit, real.held_out, strict=True)]
    by_metric: dict[str, list[float | None]] = {
        "accuracy": _accuracy(images.features, real),
        "pairwise": [mean_pairwise_distance(f) if len(f) > 1 else None for f in images.features],
        "distinct": _distinct(images.few, real.scale()),
        "nearest_reference": list(images.nearest_reference),
    }
    estimates = {metric: _mean(values, seed) for metric, values in by_metric.items()}
    return Scores(
        images=sum(map(len, images.features)),
        estimates={"frechet": _frechet(images.features, targets, seed), **estimates},
        by_class={c: {m: values[i] for m, values in by_metric.items()} for i, c in enumerate(class_names)},
    )


def differences(ours: Scores, other: Scores, *, seed: int) -> dict[str, Estimate | None]:
    """Ours minus the other's, class by class, for what is defined within a class."""

    def of(metric: str) -> Estimate | None:
        pairs = [(ours.by_class[c][metric], other.by_class[c][metric]) for c in ours.by_class]
        return _mean([None if a is None or b is None else a - b for a, b in pairs], seed)

    return {metric: of(metric) for metric in COMPARED}


def _accuracy(features: Sequence[Tensor], real: RealFeatures) -> list[float | None]:
    """Share recognised of each class; None if there is no other class."""
    if len(features) == 1:
        return [None]
    means = real.means()
    return [recognised(f, means, c) for c, f in enumerate(features)]


def _distinct(few: Sequence[Tensor], scale: float) -> list[float | None]:
    """Effective number of each class; None below two images, or where all real images are alike."""
    return [effective_number(f, scale) if len(f) > 1 and scale > LEAST_SCALE else None for f in few]


def _mean(values: Sequence[float | None], seed: int) -> Estimate | None:
    numbers = [value for value in values if value is not None]
    return bootstrap_mean(numbers, seed=seed) if len(numbers) == len(values) else None


def _frechet(generated: Sequence[Tensor], real: Sequence[Tensor], seed: int) -> Estimate | None:
    """Pooled over classes; None for a single generated image, which has no covariance."""
    if sum(map(len, generated)) < 2:
        return None

    def pooled(classes: Sequence[int]) -> float:
        return frechet_distance(torch.cat([generated[c] for c in classes]), torch.cat([real[c] for c in classes]))

    found = bootstrap(pooled, len(generated), seed=seed, replicates=FRECHET_REPLICATES)
    if found.interval is None:
        return found
    low, high = found.interval
    return Estimate(found.value, (max(low, 0.0), high))
