"""What an evaluation of painted layouts found, and what each of its numbers can show."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pyeqgan.evaluation.bootstrap import Estimate
from pyeqgan.evaluation.result import Metric, Scores

NOTE = (
    "Measured by a small segmenter trained on the training pairs of this data set: not comparable with published mIoU "
    "or FID, nor between data sets or image sizes."
)

METRICS = {
    "miou": Metric(
        "Mean IoU",
        "higher",
        "How much of the layout the segmenter finds again in the images: intersection over union of each class over "
        "all images, mean over classes. What it finds in real images is the ceiling.",
        "The segmenter knows real images only and may be misled, for better or worse, by what no real image holds. "
        "Rare classes weigh as much as frequent ones.",
    ),
    "accuracy": Metric(
        "Pixel accuracy",
        "higher",
        "Share of the pixels whose class the segmenter finds again.",
        "Frequent classes decide it.",
    ),
    "own_edges": Metric(
        "Edges, own image",
        "higher",
        "F1 of the edges that are painted beside an image and the edges of this image (Canny), both within the "
        "tolerance: whether the two outputs tell one story.",
        "Trivial for the painter and the real image, whose edges are taken from the image. An edge everywhere reaches "
        "much where images are full of edges: see what it reaches below.",
    ),
    "real_edges": Metric(
        "Edges, real image",
        "higher",
        "F1 of the painted edges and the edges of the real image of the same layout.",
        "Edges within a class may lie elsewhere in an equally good image: 1 is not to be expected. An edge everywhere "
        "reaches much where images are full of edges.",
    ),
    "frechet": Metric(
        "Fréchet distance",
        "lower",
        "How far all images together lie from the real images of the same layouts in the segmenter's features, in "
        "fidelity and spread.",
        "The segmenter may ignore what does not tell classes apart, such as a hue. Small sets raise it. The real "
        "images compared with the test images are training images, of other layouts.",
    ),
    "fid": Metric(
        "FID",
        "lower",
        "The same in the features of FID's Inception network, in which published numbers are measured.",
        "Rises as sets shrink: compare only with numbers of as many images.",
    ),
    "lpips": Metric(
        "LPIPS to the real image",
        "lower",
        "Perceptual distance, at 32², to the real image of the same layout, mean over images.",
        "A layout has many good images: one that differs from the real one is no worse for it.",
    ),
}
"""What is told in the table and drawn in the chart; `metrics.json` has precision and recall of the edges, too."""

TITLES = {
    "generator": "generator",
    "unrefined": "before refinement",
    "painter": "class mean colour",
    "real": "real images",
}

TOO_EASY = 0.9  # share of the mean IoU of real images that the trivial painter may reach before the verdict warns


@dataclass(frozen=True)
class LayoutEvaluation:
    """What an evaluation found.

    Attributes:
        note: what the numbers must not be compared with.
        settings: how it was run.
        versions: of what ran it.
        segmenter: the files, and how many pairs they were trained on.
        classes: by name, how many pixels the test layouts have of each.
        images: of the test half that were painted.
        scores: by the names of `TITLES`; of each class "iou".
        generator_minus_painter: paired over images: Mean IoU, edges of the real image, Fréchet distance.
        edges_everywhere: F1 that an edge in every pixel reaches, by the names of the metrics.
        segmenters: of each of `scores` the mean over segmenters of other seeds, with its interval; None for one.
    """

    note: str
    settings: Mapping[str, Any]
    versions: Mapping[str, str]
    segmenter: Mapping[str, Any]
    classes: Mapping[str, Mapping[str, int]]
    images: int
    scores: Mapping[str, Scores]
    generator_minus_painter: Mapping[str, Estimate | None]
    edges_everywhere: Mapping[str, float | None]
    segmenters: Mapping[str, Mapping[str, Estimate | None]] | None = None

    def metrics(self) -> dict[str, Metric]:
        """What was measured, by its name."""
        optional = {"fid": self.settings["inception"], "lpips": self.settings["lpips"] is not None}
        return {name: metric for name, metric in METRICS.items() if optional.get(name, True)}

    def to_json(self) -> str:
        """All of it as JSON; what does not exist is null."""
        return json.dumps(dataclasses.asdict(self), indent=1, allow_nan=False) + "\n"

    def verdict(self) -> str:
        """How much of the layout is found again, how well the edges fit, and what beats the painter, in numbers."""
        return f"{self._layout()} {self._edges()} {self._beaten()}"

    def _layout(self) -> str:
        ours, painter, real = (self.scores[name].estimates["miou"] for name in ("generator", "painter", "real"))
        if ours is None or painter is None or real is None:
            return "The layouts tell no class to look for."
        caution = " Flat colours are told apart nearly as well as real images: it shows little here."
        return (
            f"The segmenter finds the layout again with a mean IoU of {told(ours)}; in real images {real.value:.3f}, "
            f"in class mean colours {painter.value:.3f}.{caution if painter.value > TOO_EASY * real.value else ''}"
        )

    def _edges(self) -> str:
        ours, everywhere = self.scores["generator"].estimates["own_edges"], self.edges_everywhere["own_edges"]
        if ours is None or everywhere is None:
            return "It paints no edges."
        return f"Its edges fit its images with an F1 of {told(ours)}; an edge everywhere reaches {everywhere:.3f}."

    def _beaten(self) -> str:
        found: dict[str, list[str]] = {"Better than": [], "Worse than": [], "Not clearly better or worse than": []}
        better, worse, unclear = found.values()
        for name, difference in self.generator_minus_painter.items():
            if difference is None:
                continue
            low, high = difference.interval or (0.0, 0.0)  # one image says nothing of others
            if METRICS[name].better == "lower":
                low, high = -high, -low
            (better if low > 0 else worse if high < 0 else unclear).append(METRICS[name].title)
        return " ".join(f"{how} class mean colours: {', '.join(names)}." for how, names in found.items() if names)


def told(estimate: Estimate) -> str:
    """A number between 0 and 1 with its interval, in words."""
    if estimate.interval is None:
        return f"{estimate.value:.3f}"
    low, high = estimate.interval
    return f"{estimate.value:.3f} (95 % interval {low:.3f} to {high:.3f})"
