"""The metrics of one generator, from the features of its images and of the real ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from pyeqgan.evaluation import pooled
from pyeqgan.evaluation.bootstrap import Estimate, bootstrap_mean
from pyeqgan.evaluation.classify import recognised
from pyeqgan.evaluation.diversity import effective_number, mean_pairwise_distance, nearest_neighbour_distance
from pyeqgan.evaluation.result import Scores
from pyeqgan.evaluation.variants import PROTOCOL, Variant, resample

LEAST_SCALE = 1e-5  # features, of total variance 1, are float32: those of equal images differ by about 1e-7
COMPARED = ("accuracy", "pairwise", "distinct")


@dataclass
class Images:
    """The images of one generator, class by class.

    Attributes:
        features: (n,D), of images from all references.
        few: (m,D), of images all from the same few references; as many for every generator.
        nearest_reference: mean distance of the images from all references to the nearest one.
        lpips: mean over all pairs of the images from all references, None if not measured or of a single image.
    """

    features: list[Tensor] = field(default_factory=list)
    few: list[Tensor] = field(default_factory=list)
    nearest_reference: list[float] = field(default_factory=list)
    lpips: list[float | None] = field(default_factory=list)

    def add(self, features: Tensor, few: Tensor, nearest_reference: float, lpips: float | None = None) -> None:
        """Append a class."""
        self.features.append(features)
        self.few.append(few)
        self.nearest_reference.append(nearest_reference)
        self.lpips.append(lpips)


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


def score(
    name: str,
    images: Images,
    real: RealFeatures,
    class_names: Sequence[str],
    *,
    seed: int,
    variant: Variant = PROTOCOL,
    intervals: bool = True,
) -> Scores:
    """The numbers of one generator with intervals over classes.

    Args:
        name: of the generator. "real" are the real images held out, and meets the other half only.
        images: of the generator.
        real: the images it is compared with.
        class_names: one per class, all different.
        seed: of the intervals and of what the variant draws.
        variant: how many real images stand for a class.
        intervals: whether to draw classes for them, and subsets for the published kernel distance.
    """
    if name == "real":
        targets = real.fit
    else:
        targets = [torch.cat(halves) for halves in zip(real.fit, real.held_out, strict=True)]
        if variant.resampled is not None:
            targets = resample(targets, variant.resampled, seed)
    made, draws = images.features, seed if intervals else None
    real_looking, reached = pooled.inside(made, targets), pooled.inside(targets, made)
    by_class: dict[str, list[float | None]] = {
        "precision": _means(real_looking, len(made)),
        "recall": _means(reached, len(made)),
        "accuracy": _accuracy(made, real),
        "pairwise": [mean_pairwise_distance(f) if len(f) > 1 else None for f in made],
        "lpips": list(images.lpips),
        "distinct": _distinct(images.few, real.scale()),
        "nearest_reference": list(images.nearest_reference),
    }
    estimates = {
        "frechet": pooled.frechet(made, targets, seed=draws),
        "kernel": pooled.kernel(made, targets, seed=draws),
        **{metric: _mean(values, draws) for metric, values in by_class.items()},
        "precision": pooled.share(real_looking, seed=draws),
        "recall": pooled.share(reached, seed=draws),
    }
    return Scores(
        images=sum(map(len, made)),
        estimates=estimates,
        by_class={c: {m: values[i] for m, values in by_class.items()} for i, c in enumerate(class_names)},
        kernel_subsets=pooled.kernel_subsets(made, targets, seed=seed) if intervals else None,
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


def _means(inside: Sequence[Tensor] | None, classes: int) -> list[float | None]:
    return [None] * classes if inside is None else [float(hits.mean()) for hits in inside]


def _mean(values: Sequence[float | None], seed: int | None) -> Estimate | None:
    numbers = [value for value in values if value is not None]
    return bootstrap_mean(numbers, seed=seed) if len(numbers) == len(values) else None
