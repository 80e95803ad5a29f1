"""Edge maps: of images by Canny, of instances where two of them touch."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from pyeqgan.data.images import Pixels
from pyeqgan.data.layouts.images import Instances
from pyeqgan.errors import UserError

EdgeMaps = NDArray[np.float32]


@dataclass(frozen=True)
class Thresholds:
    """Of the gradient |∂x| + |∂y| by Sobel's 3×3 masks, on grey from 0 to 255: a straight step of n levels has 4n.

    A pixel above `high` is an edge, and one above `low` that is connected with it; by default a step of 50 levels,
    and what goes on from it with 25.

    Raises UserError: not 0 < low <= high.
    """

    low: float = 100.0
    high: float = 200.0

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.high:
            raise UserError(f"Canny thresholds {self.low:g} and {self.high:g}, expected 0 < low <= high")


THRESHOLDS = Thresholds()


def canny(images: Pixels, thresholds: Thresholds = THRESHOLDS) -> EdgeMaps:
    """The edges of images uint8 RGB (...,H,W,3) in grey (BT.601), by Canny without blurring: (...,H,W) of -1 and 1.

    Source: Canny, "A computational approach to edge detection", PAMI 1986; computed by OpenCV.

    Raises:
        UserError: OpenCV is not installed.
    """
    cv2 = opencv()
    maps = np.empty(images.shape[:-1], np.float32)
    for at in np.ndindex(images.shape[:-3]):
        grey = cv2.cvtColor(images[at], cv2.COLOR_RGB2GRAY)
        maps[at] = cv2.Canny(grey, thresholds.low, thresholds.high)
    return np.where(maps > 0, np.float32(1), np.float32(-1))


def instance_edges(instances: Instances) -> EdgeMaps:
    """Where instances (...,H,W) touch: (...,H,W), 1 for a pixel with a neighbour, of four, of another one, else 0."""
    edges = np.zeros(instances.shape, np.float32)
    across = instances[..., :, 1:] != instances[..., :, :-1]
    down = instances[..., 1:, :] != instances[..., :-1, :]
    edges[..., :, 1:][across] = edges[..., :, :-1][across] = 1
    edges[..., 1:, :][down] = edges[..., :-1, :][down] = 1
    return edges


@functools.cache
def opencv() -> ModuleType:
    """OpenCV without threads of its own: the threads that prepare batches are the ones there should be.

    Raises:
        UserError: it is not installed.
    """
    try:
        import cv2
    except ImportError as error:
        raise UserError("edges need OpenCV: pip install 'pyeqgan[ecgan]'") from error
    cv2.setNumThreads(0)
    return cv2
