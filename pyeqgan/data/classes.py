"""Labelled images as every part of the application sees them, and how a data source is opened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pyeqgan.data.archives import ArchiveClasses
from pyeqgan.data.built import BuiltClasses, is_built
from pyeqgan.data.folders import FolderClasses
from pyeqgan.data.images import Pixels, check_image_size, check_index
from pyeqgan.data.synthetic import SyntheticFlowers
from pyeqgan.errors import UserError

EMBEDDED = "embedded"
EMBEDDED_CLASSES, EMBEDDED_IMAGES = 80, 64


class ImageClasses(Protocol):
    """Images of one size, grouped in classes. `len()` is the number of classes; a source sorts them by name.

    Where a source was built with a split, the seen ones come first.
    """

    @property
    def class_names(self) -> Sequence[str]:
        """One name per class."""

    @property
    def image_size(self) -> int:
        """Height and width S of every image, in pixels."""

    def __len__(self) -> int: ...

    def count(self, class_index: int) -> int:
        """Number of images in a class."""

    def image(self, class_index: int, image_index: int) -> Pixels:
        """One image, uint8 RGB (S,S,3); it may be read-only. UserError if it cannot be read."""


class ClassSubset:
    """Some classes of a source, renumbered from 0 in the order given."""

    def __init__(self, source: ImageClasses, class_indices: Sequence[int]) -> None:
        self._source = source
        self._indices = tuple(check_index("class", index, len(source)) for index in class_indices)
        if len(set(self._indices)) != len(self._indices):
            raise ValueError("class_indices names a class twice")
        self.class_names: Sequence[str] = tuple(source.class_names[index] for index in self._indices)

    @property
    def image_size(self) -> int:
        """Height and width S of every image, in pixels."""
        return self._source.image_size

    def __len__(self) -> int:
        return len(self._indices)

    def count(self, class_index: int) -> int:
        """Number of images in a class."""
        return self._source.count(self._indices[check_index("class", class_index, len(self))])

    def image(self, class_index: int, image_index: int) -> Pixels:
        """One image, uint8 RGB (S,S,3)."""
        return self._source.image(self._indices[check_index("class", class_index, len(self))], image_index)


@dataclass(frozen=True)
class Split:
    """Classes to train on, and classes kept apart to generate and evaluate on; they share none."""

    seen: ImageClasses
    unseen: ImageClasses


def open_data(source: str | Path, *, image_size: int, seen_classes: int | None = None, seed: int = 0) -> Split:
    """Open a data source and split its classes: the first `seen_classes` in its order seen, the rest unseen.

    Args:
        source: "embedded" for the procedural flowers (a folder of that name is "./embedded"), a folder made by
            `pyeqgan data build`, a `.npy` archive, or a folder of class folders.
        image_size: height and width of the images, a multiple of 16 from 32 to 256.
        seen_classes: from 1 to all of them, the latter leaving none unseen. Default: as the folder was built, else
            three quarters, rounded down, at least 1 (60 of the embedded 80).
        seed: of the embedded flowers; files do not depend on it.

    Raises UserError for a source that is none of these, or an argument out of range.
    """
    classes = open_classes(source, image_size=image_size, seed=seed)
    count, seen = len(classes), seen_count(classes) if seen_classes is None else seen_classes
    if not 1 <= seen <= count:
        raise UserError(f"seen classes {seen}, expected 1 to {count}, the classes of {str(source)!r}")
    return Split(seen=ClassSubset(classes, range(seen)), unseen=ClassSubset(classes, range(seen, count)))


def open_classes(source: str | Path, *, image_size: int, seed: int = 0) -> ImageClasses:
    """All classes of a data source, see `open_data`."""
    check_image_size(image_size)
    if source == EMBEDDED:
        return SyntheticFlowers(EMBEDDED_CLASSES, EMBEDDED_IMAGES, image_size, seed)
    path = Path(source)
    if is_built(path):
        return BuiltClasses(path, image_size)
    if path.suffix.lower() == ".npy" and not path.is_dir():
        return ArchiveClasses(path, image_size)
    if path.is_file():
        raise UserError(f"data {str(source)!r} is a file, expected a folder of class folders or a .npy archive")
    return FolderClasses(path, image_size)


def seen_count(classes: ImageClasses) -> int:
    """How many of the classes are seen unless told otherwise: as built, else three quarters."""
    return classes.manifest.seen if isinstance(classes, BuiltClasses) else three_quarters(len(classes))


def three_quarters(count: int) -> int:
    """Of so many classes, rounded down, but at least one."""
    return max(1, count * 3 // 4)
