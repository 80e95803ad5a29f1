"""What an evaluation found, and what each of its numbers can show."""

from __future__ import annotations

import dataclasses
import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

import pyeqgan
from pyeqgan.evaluation.bootstrap import Estimate
from pyeqgan.evaluation.published import Published

NOTES = {
    "self": "Measured in the features of a small network trained on the seen classes of this data set: not comparable "
    "with published FID or LPIPS, nor between data sets or image sizes.",
    "inception": "Measured in the features of FID's Inception network: comparable with published numbers of the same "
    "protocol, data and number of images alone; FID rises as sets shrink.",
}


@dataclass(frozen=True)
class Metric:
    """A number's name, what is better, and what it can and cannot show."""

    title: str
    better: str
    shows: str
    beware: str


METRICS = {
    "frechet": Metric(
        "Fréchet distance",
        "lower",
        "How far all generated images together lie from all remaining real ones, in fidelity and spread.",
        "Copies of references are real images, so copying does well without generating anything. Small sets raise "
        "it: the real images are compared with the other half of themselves, fewer than the others meet.",
    ),
    "kernel": Metric(
        "Kernel distance",
        "near 0",
        "The same question by the unbiased estimate of a kernel distance over all pairs of images (KID): small sets do "
        "not raise it. metrics.json also has the mean over subsets, as it is published.",
        "Below 0 is possible: halves of the same classes are more alike than by chance. It sees means, spreads and "
        "skews of features, no finer differences.",
    ),
    "precision": Metric(
        "Precision",
        "higher",
        "Share of images no farther from some real one than that one's third nearest real neighbour.",
        "Copies are real images. A single odd real image has a large ball around it, in which anything passes.",
    ),
    "recall": Metric(
        "Recall",
        "higher",
        "Share of real images no farther from some image than that one's third nearest neighbour among the images.",
        "Grows with the number of images, and with their disorder: noise has large balls. Copies repeated more than "
        "three times have none.",
    ),
    "accuracy": Metric(
        "Recognised class",
        "higher",
        "Share of images whose features are nearest to the mean of their own unseen class among all unseen classes, "
        "the means taken from one half of the remaining real images.",
        "Copies reach what real images reach: this is a floor to keep, not a prize. It says nothing about detail.",
    ),
    "pairwise": Metric(
        "Pairwise distance",
        "near the real one",
        "Mean feature distance over all pairs of images of a class, identical ones included.",
        "Copies of R references keep about (R − 1)/R of the spread of real images: with many references copying is "
        "hard to beat. Broken images are far from each other too.",
    ),
    "lpips": Metric(
        "LPIPS",
        "near the real one",
        "Learned perceptual distance over all pairs of images of a class at 32², mean over classes.",
        "Broken images are far from each other too; published papers take higher for better.",
    ),
    "distinct": Metric(
        "Distinct images",
        "higher",
        "Effective number of different images (Vendi score) among as many as there are real ones held out, all made "
        "from the same few references; images differ if they are as far apart as a real one and its nearest neighbour.",
        "Copies cannot exceed the number of those references, however many are drawn, and their mean is one image. "
        "Noise would win: read it beside the recognised class.",
    ),
    "nearest_reference": Metric(
        "Nearest reference",
        "above 0",
        "Mean absolute pixel difference, on [−1, 1], to the nearest reference: images are new, not copied.",
        "Larger is not better. Noise is far from every reference; a blur may be near one.",
    ),
}

TITLES = {
    "generator": "generator",
    "copy": "copy a reference",
    "mean": "pixel mean",
    "real": "real, held out",
}


def versions() -> dict[str, str]:
    """Of what runs an evaluation."""
    return {
        "pyeqgan": pyeqgan.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


@dataclass(frozen=True)
class Scores:
    """The numbers of one generator, by the names of `METRICS`.

    Attributes:
        images: how many were scored.
        estimates: None where the number does not exist, as the accuracy among one class, or LPIPS without its network.
        by_class: the same for each class by its name; the Fréchet and kernel distances are pooled and not among them.
        kernel_subsets: the kernel distance as it is published: mean and standard deviation over 100 subsets, and their
            size; None of a single image.
    """

    images: int
    estimates: Mapping[str, Estimate | None]
    by_class: Mapping[str, Mapping[str, float | None]]
    kernel_subsets: Mapping[str, float | int] | None = None


@dataclass(frozen=True)
class Downstream:
    """Accuracy on test images, over seeds.

    Attributes:
        without: trained on the real images of the unseen classes that the generator is given.
        with_generated: on these and generated ones.
        difference: with minus without, paired over seeds.
        repeats: seeds.
        chance: accuracy of guessing.
        images: of all classes together: train, generated, validation, test.
    """

    without: Estimate
    with_generated: Estimate
    difference: Estimate
    repeats: int
    chance: float
    images: dict[str, int]


@dataclass(frozen=True)
class EvaluationResult:
    """What an evaluation found.

    Attributes:
        note: what the numbers must not be compared with.
        settings: how it was run.
        versions: of what ran it.
        feature_network: its file; of the one trained on the seen classes also the accuracy on held-out images, and
            chance.
        classes: by name, how many references, real images for the class means, and real images held out.
        scores: by the names of `TITLES`.
        generator_minus_copy: paired over classes: accuracy, pairwise and distinct.
        draws: of the generator's numbers, mean and interval over other draws of its images; None for a single draw.
        downstream: accuracy of a classifier of the unseen classes with and without generated images; None if not asked.
        published: what papers report on this data set; None unless these numbers may stand beside it.
    """

    note: str
    settings: Mapping[str, Any]
    versions: Mapping[str, str]
    feature_network: Mapping[str, Any]
    classes: Mapping[str, Mapping[str, int]]
    scores: Mapping[str, Scores]
    generator_minus_copy: Mapping[str, Estimate | None]
    draws: Mapping[str, Estimate] | None = None
    downstream: Downstream | None = None
    published: Published | None = None

    def metrics(self) -> dict[str, Metric]:
        """What was measured, by its name, as it is called in these features."""
        found = {name: metric for name, metric in METRICS.items() if name != "lpips" or self.settings["lpips"]}
        if self.settings["features"] == "inception":
            for name, title in (("frechet", "FID"), ("kernel", "KID")):
                found[name] = dataclasses.replace(found[name], title=title)
        return found

    def to_json(self) -> str:
        """All of it as JSON; what does not exist is null."""
        return json.dumps(dataclasses.asdict(self), indent=1, allow_nan=False) + "\n"

    def verdict(self) -> str:
        """Whether the generator is more diverse than copying at recognisable class, in words and numbers."""
        return f"{self._diversity()} {self._recognisability()}"

    def _diversity(self) -> str:
        difference = self.generator_minus_copy["distinct"]
        ours, copy = (self.scores[name].estimates["distinct"] for name in ("generator", "copy"))
        if difference is None or ours is None or copy is None:
            return "Too few images to count distinct ones."
        shots = self.settings["shots"]
        numbers = f"{ours.value:.1f} distinct images from the same {shots} references, against {copy.value:.1f}"
        if difference.interval is None:
            return f"One class does not tell whether it is more diverse than copying: {numbers}."
        low, high = difference.interval
        finding = "More" if low > 0 else "Less" if high < 0 else "Not clearly more or less"
        interval = f"difference {difference.value:+.1f}, 95 % interval {low:+.1f} to {high:+.1f}"
        return f"{finding} diverse than copying: {numbers} ({interval})."

    def _recognisability(self) -> str:
        ours, copy, real = (self.scores[name].estimates["accuracy"] for name in ("generator", "copy", "real"))
        if ours is None or ours.interval is None or copy is None or real is None:
            return "With one unseen class there is no other to mistake it for."
        chance = 1 / len(self.classes)
        low, high = ours.interval
        finding = "Recognised" if low > chance else "Not clearly recognised"
        return (
            f"{finding} above chance: {ours.value:.0%} of the generated images are taken for their own class "
            f"(95 % interval {low:.0%} to {high:.0%}), by chance {chance:.0%}; of copies {copy.value:.0%}, "
            f"of other real images {real.value:.0%}."
        )
