"""One unseen class after the other: which of its images are what, and what every generator makes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from pyeqgan.data import ImageClasses, to_tensor, to_uint8
from pyeqgan.data.images import Pixels
from pyeqgan.errors import UserError
from pyeqgan.evaluation.classify import read_images
from pyeqgan.evaluation.diversity import nearest_reference_distance
from pyeqgan.evaluation.features import FeatureNetwork
from pyeqgan.evaluation.generators import Generate
from pyeqgan.evaluation.report import ClassSamples
from pyeqgan.evaluation.scores import Images, RealFeatures

LEAST_REAL = 4
SHOWN_REFERENCES, SHOWN_GENERATED, SHOWN_TRIVIAL = 5, 6, 2


@dataclass(frozen=True)
class ClassPlan:
    """Which images of an unseen class are references, which give the class mean, which are held out."""

    references: range
    fit: range
    held_out: range


def plan_class(name: str, count: int, *, shots: int, references: int) -> ClassPlan:
    """The first `references` images, or what `LEAST_REAL` leave of a small class; of the rest every second each.

    Raises:
        UserError: a class of `count` images is too small for `shots` references and `LEAST_REAL` others.
    """
    if count < shots + LEAST_REAL:
        raise UserError(
            f"unseen class {name!r} has {count} images, expected at least {shots + LEAST_REAL}: "
            f"{shots} references and {LEAST_REAL} real ones to compare with"
        )
    first = min(references, count - LEAST_REAL)
    return ClassPlan(range(first), range(first, count, 2), range(first + 1, count, 2))


@dataclass
class Trial:
    """All generators on one class after the other; of their images only features and a few samples are kept."""

    unseen: ImageClasses
    network: FeatureNetwork
    generators: Mapping[str, Generate]
    shots: int
    count: int
    seed: int
    real: RealFeatures = field(default_factory=RealFeatures)
    images: dict[str, Images] = field(default_factory=dict)
    samples: list[ClassSamples] = field(default_factory=list)

    def run(self, class_index: int, plan: ClassPlan) -> None:
        """Generate images of one unseen class from its references, and look at them and at the real ones."""
        references = read_images(self.unseen, class_index, plan.references)
        held_out = read_images(self.unseen, class_index, plan.held_out)
        made = {name: self._generate(name, class_index, references, self.count) for name in self.generators}
        for name, images in {**made, "real": held_out}.items():
            features = self.network.features(images)
            count = min(self.count, len(held_out))
            if name == "real":
                few = features[:count]
            else:
                few = self.network.features(self._generate(name, class_index, references[: self.shots], count))
            distance = nearest_reference_distance(to_tensor(images), to_tensor(references)).double().mean()
            self.images.setdefault(name, Images()).add(features, few, float(distance))
        fit = self.network.features(read_images(self.unseen, class_index, plan.fit))
        self.real.add(fit, self.images["real"].features[-1])
        self.samples.append(
            ClassSamples(
                self.unseen.class_names[class_index],
                references[:SHOWN_REFERENCES],
                {n: i[: SHOWN_GENERATED if n == "generator" else SHOWN_TRIVIAL] for n, i in made.items()},
            )
        )

    def _generate(self, name: str, class_index: int, references: Pixels, count: int) -> Pixels:
        """Images uint8 (count,S,S,3) of one generator, the same for the same seed, class and references."""
        key = (class_index, len(references))
        state = np.random.SeedSequence(self.seed, spawn_key=key).generate_state(1, np.uint64)
        source = torch.Generator().manual_seed(int(state[0] >> np.uint64(1)))
        images = self.generators[name](to_tensor(references), count, source)
        _check_generated(images, (count, 3, *references.shape[1:3]), self.unseen.class_names[class_index])
        return to_uint8(images)


def _check_generated(images: Tensor, shape: Sequence[int], class_name: str) -> None:
    if not images.is_floating_point():
        raise TypeError(f"generate: expected floating point in [-1, 1], got {images.dtype}")
    if images.shape != torch.Size(shape):
        raise ValueError(f"generate: expected shape {tuple(shape)}, got {tuple(images.shape)}")
    if images.isnan().any():
        raise UserError(f"the generator returns NaN for class {class_name!r}: its training went wrong")
    if images.abs().max() > 1.001:  # a mean of ones may round to a little more than 1
        raise ValueError(f"generate: expected values in [-1, 1], got {images.min():g} to {images.max():g}")
