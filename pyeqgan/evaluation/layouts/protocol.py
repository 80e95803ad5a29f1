"""The protocol for layouts: how many pairs, segmenters and networks they are measured with."""

from __future__ import annotations

from dataclasses import dataclass, field

from pyeqgan.data.layouts import THRESHOLDS, Thresholds
from pyeqgan.errors import UserError
from pyeqgan.evaluation.layouts.contours import TOLERANCE
from pyeqgan.evaluation.layouts.training import SegmenterConfig
from pyeqgan.options.evaluate import Backbone


@dataclass(frozen=True)
class LayoutProtocol:
    """What is measured of images painted from the layouts of the test half.

    Attributes:
        most_images: so many test pairs at most, spread evenly over all; None for all.
        batch_size: layouts that are painted at once.
        tolerance: pixels by which an edge may miss.
        thresholds: of Canny, as in the training of what is evaluated.
        repeats: segmenters, each trained with a seed of its own; the first gives the numbers, all their spread.
        inception: also measure the Fréchet distance in the features of FID's Inception network.
        lpips: also measure LPIPS to the real image with this backbone.
        seed: of the first segmenter and of what the intervals draw.
        segmenter_training: of the segmenters; their seed is set to `seed` and those after it.

    Raises:
        UserError: a number out of range.
    """

    most_images: int | None = None
    batch_size: int = 16
    tolerance: int = TOLERANCE
    thresholds: Thresholds = THRESHOLDS
    repeats: int = 1
    inception: bool = False
    lpips: Backbone | None = None
    seed: int = 0
    segmenter_training: SegmenterConfig = field(default_factory=SegmenterConfig)

    def __post_init__(self) -> None:
        for name, value, least in (
            ("images", 1 if self.most_images is None else self.most_images, 1),
            ("batch size", self.batch_size, 1),
            ("tolerance", self.tolerance, 0),
            ("repeats", self.repeats, 1),
            ("seed", self.seed, 0),
            ("segmenter steps", self.segmenter_training.steps, 1),
        ):
            if value < least:
                raise UserError(f"{name} {value}, expected at least {least}")
