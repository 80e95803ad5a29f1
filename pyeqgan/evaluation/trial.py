"""One unseen class after the other: which of its images are what, and what every generator makes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from torch import Tensor

from pyeqgan.data import ImageClasses, to_tensor
from pyeqgan.data.images import Pixels
from pyeqgan.errors import UserError
from pyeqgan.evaluation.classify import read_images
from pyeqgan.evaluation.diversity import nearest_reference_distance
from pyeqgan.evaluation.generators import Generate, draw_images
from pyeqgan.evaluation.lpips import LPIPS, mean_lpips
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


class Features(Protocol):
    """A network that says how images look."""

    def features(self, images: Pixels) -> Tensor:
        """Features of images uint8 (n,S,S,3): (n,D) float64 on the CPU."""


@dataclass
class Trial:
    """All generators on one class after the other; of their images only features and a few samples are kept."""

    unseen: ImageClasses
    network: Features
    generators: Mapping[str, Generate]
    shots: int
    count: int
    seed: int
    perceptual: LPIPS | None = None
    real: RealFeatures = field(default_factory=RealFeatures)
    images: dict[str, Images] = field(default_factory=dict)
    samples: list[ClassSamples] = field(default_factory=list)

    def run(self, class_index: int, plan: ClassPlan) -> None:
        """Generate images of one unseen class from its references, and look at them and at the real ones."""
        references = read_images(self.unseen, class_index, plan.references)
        held_out = read_images(self.unseen, class_index, plan.held_out)
        made = {name: self._generate(name, class_index, references, self.count) for name in self.generators}
        for name, images in made.items():
            few = self._generate(name, class_index, references[: self.shots], min(self.count, len(held_out)))
            self._look(self.images.setdefault(name, Images()), images, self.network.features(few), references)
        self._look(self.images.setdefault("real", Images()), held_out, None, references)
        fit = self.network.features(read_images(self.unseen, class_index, plan.fit))
        self.real.add(fit, self.images["real"].features[-1])
        self.samples.append(
            ClassSamples(
                self.unseen.class_names[class_index],
                references[:SHOWN_REFERENCES],
                {n: i[: SHOWN_GENERATED if n == "generator" else SHOWN_TRIVIAL] for n, i in made.items()},
            )
        )

    def again(self, plans: Sequence[ClassPlan], seed: int) -> Images:
        """Other images of the generator, of every class."""
        trial, found = replace(self, seed=seed), Images()
        for c, plan in enumerate(plans):
            references = read_images(self.unseen, c, plan.references)
            images = trial._generate("generator", c, references, self.count)
            few = trial._generate("generator", c, references[: self.shots], min(self.count, len(plan.held_out)))
            self._look(found, images, self.network.features(few), references)
        return found

    def _look(self, into: Images, images: Pixels, few: Tensor | None, references: Pixels) -> None:
        """Keep what the networks say of images; without `few`, some of them stand for those of few references."""
        features = self.network.features(images)
        distance = nearest_reference_distance(to_tensor(images), to_tensor(references)).double().mean()
        lpips = mean_lpips(self.perceptual.embed(images)) if self.perceptual is not None and len(images) > 1 else None
        into.add(features, features[: self.count] if few is None else few, float(distance), lpips)

    def _generate(self, name: str, class_index: int, references: Pixels, count: int) -> Pixels:
        """Images uint8 (count,S,S,3) of one generator, the same for the same seed, class and references."""
        return draw_images(
            self.generators[name],
            references,
            count,
            seed=self.seed,
            key=(class_index, len(references)),
            class_name=self.unseen.class_names[class_index],
        )
