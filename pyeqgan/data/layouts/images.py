"""Pairs of images and label maps as every part of the application sees them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from pyeqgan.data.images import Pixels
from pyeqgan.errors import UserError

Labels = NDArray[np.int64]
Instances = NDArray[np.int32]

IGNORED = -1
"""The label of a pixel that belongs to no class."""

MOST_CLASSES = 2**15 - 1
"""Labels are kept in 16 bits."""

SMALLEST, LARGEST = 16, 4096  # height and width of an image, pixels


class View(NamedTuple):
    """Which part of a picture is seen: the largest of the image's proportions, `zoom` times smaller.

    `x` and `y` say where it lies in the room that is left, from 0 (left, top) to 1 (right, bottom).
    """

    zoom: float = 1.0
    x: float = 0.5
    y: float = 0.5

    def box(self, size: tuple[int, int], shape: tuple[int, int]) -> tuple[float, float, float, float]:
        """Left, top, right and bottom in a picture of `size` (height, width), to be resized to `shape`."""
        side = min(size[0] / shape[0], size[1] / shape[1]) / self.zoom
        height, width = shape[0] * side, shape[1] * side
        left, top = (size[1] - width) * self.x, (size[0] - height) * self.y
        return left, top, left + width, top + height


CENTRE = View()


@dataclass(frozen=True)
class Coding:
    """How the values of label files name the classes: `first` is class 0, and so on; `ignored` is none."""

    num_classes: int
    ignored: int
    first: int = 0

    def decode(self, values: NDArray[np.int32], path: str) -> Labels:
        """Labels of the values of a file; UserError naming it if one means nothing."""
        labels = values.astype(np.int64) - self.first
        none = values == self.ignored
        wrong = ((labels < 0) | (labels >= self.num_classes)) & ~none
        if wrong.any():
            row, column = np.argwhere(wrong)[0].tolist()
            raise UserError(
                f"label {values[row, column]} in {path!r} at row {row}, column {column}: expected {self.first} to "
                f"{self.first + self.num_classes - 1}, or {self.ignored} where there is no class"
            )
        labels[none] = IGNORED
        return labels


class LayoutImages(Protocol):
    """Images of one size, and a class for every pixel of them."""

    @property
    def num_classes(self) -> int:
        """Labels are below it."""

    @property
    def coding(self) -> Coding:
        """How values in label files name these classes."""

    @property
    def class_names(self) -> Sequence[str]:
        """One name per class."""

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of every image, in pixels."""

    @property
    def has_instances(self) -> bool:
        """Whether it is known which pixels of a class belong to one thing."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """What a pair is called, such as its files without their ending; no two are called the same."""

    def pair(self, index: int, view: View = CENTRE) -> tuple[Pixels, Labels]:
        """An image uint8 RGB (H,W,3) and its labels int64 (H,W), -1 where a pixel has none; may be read-only.

        UserError if they cannot be read, or are no pair.
        """

    def instances(self, index: int, view: View = CENTRE) -> Instances:
        """Numbers int32 (H,W) that differ between any two things that touch. ValueError unless `has_instances`."""


@dataclass(frozen=True)
class LayoutSplit:
    """Pairs to train on, and pairs kept apart to evaluate on; they share none."""

    train: LayoutImages
    test: LayoutImages


def check_shape(image_size: tuple[int, int]) -> tuple[int, int]:
    """`image_size` itself if it is a height and a width; UserError otherwise."""
    height, width = image_size
    for name, value in (("height", height), ("width", width)):
        if isinstance(value, bool) or not isinstance(value, int) or not SMALLEST <= value <= LARGEST:
            raise UserError(f"image {name} {value!r}, expected {SMALLEST} to {LARGEST}")
    return height, width
