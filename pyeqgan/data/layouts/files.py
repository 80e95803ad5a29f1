"""Pairs of images and label maps from files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from pyeqgan.data.folders import FORMATS, reading, to_rgb
from pyeqgan.data.images import GIBIBYTE, PixelCache, Pixels, check_index
from pyeqgan.data.layouts.images import CENTRE, Coding, Instances, Labels, View, check_shape
from pyeqgan.errors import UserError

_ORIENTATION, _ON_ITS_SIDE = 0x0112, range(5, 9)  # EXIF's tag, and its values that swap height and width
_SPREAD = {"L;2": 85, "L;4": 17}  # Pillow spreads greyscale of two and four bits over 0 to 255

Map = TypeVar("Map", bound=NDArray[Any])


class PairFiles(NamedTuple):
    """The files of a pair."""

    name: str
    image: str
    labels: str
    instances: str | None = None


class LayoutFiles:
    """Pairs of files, decoded when they are asked for.

    Images are decoded as those of class folders are: EXIF orientation, transparency over white, the first frame. Of a
    picture the largest part of the proportions of `image_size` is taken, in the middle unless a `View` says otherwise,
    and resized: the image by Lanczos, labels and instances to the nearest. The middles are kept while all those kept
    fit in `cache_bytes`, least recently used dropped first; other views are decoded each time.

    Raises UserError, when a pair is asked for: a file that cannot be read, labels of another size than their image, in
    colour, or out of range; each names the file.
    """

    def __init__(
        self,
        files: Sequence[PairFiles],
        coding: Coding,
        class_names: Sequence[str],
        image_size: tuple[int, int],
        *,
        cache_bytes: int = GIBIBYTE,
    ) -> None:
        self.image_size = check_shape(image_size)
        self.num_classes = coding.num_classes
        self.class_names = tuple(class_names)
        self.has_instances = all(pair.instances is not None for pair in files)
        self.files = files
        self.coding = coding
        self._cache = PixelCache(cache_bytes)

    def __len__(self) -> int:
        return len(self.files)

    def name(self, index: int) -> str:
        """The files' name without ending."""
        return self._pair(index).name

    def pair(self, index: int, view: View = CENTRE) -> tuple[Pixels, Labels]:
        """One image, uint8 RGB (H,W,3), read-only, and its labels, int64 (H,W)."""
        pair = self._pair(index)
        if view != CENTRE:
            return read_image(pair.image, self.image_size, view), self._read_labels(pair, view)
        image = self._cache.get((index, "image"), lambda: read_image(pair.image, self.image_size, view))
        labels = self._cache.get((index, "labels"), lambda: self._read_labels(pair, view).astype(np.int16))
        return image, labels.astype(np.int64)

    def instances(self, index: int, view: View = CENTRE) -> Instances:
        """The numbers of the instances of one image, int32 (H,W)."""
        pair = self._pair(index)
        path = pair.instances
        if path is None:
            raise ValueError(f"no instances are known of {pair.name!r}")

        def read() -> Instances:
            return sample(_read_beside(path, pair.image), self.image_size, view)

        return self._cache.get((index, "instances"), read) if view == CENTRE else read()

    def _pair(self, index: int) -> PairFiles:
        return self.files[check_index("layout", index, len(self.files))]

    def _read_labels(self, pair: PairFiles, view: View) -> Labels:
        values = _read_beside(pair.labels, pair.image)
        return sample(self.coding.decode(values, pair.labels), self.image_size, view)


def read_image(path: str, image_size: tuple[int, int], view: View = CENTRE) -> Pixels:
    """The part of an image that a view shows, uint8 RGB (H,W,3); UserError naming the file if it cannot be read."""
    with reading(path), Image.open(path, formats=FORMATS) as image:
        left, _, right, _ = view.box(_upright(image), image_size)
        enough = 2 * image_size[1] / (right - left)  # a JPEG may decode at a fraction of its size
        image.draft("RGB", (round(enough * image.width), round(enough * image.height)))
        picture = to_rgb(ImageOps.exif_transpose(image))
        left, top, right, bottom = view.box((picture.height, picture.width), image_size)
        box = (left, top, min(right, picture.width), min(bottom, picture.height))  # the last digit may be one too many
        return np.asarray(picture.resize(image_size[::-1], Image.Resampling.LANCZOS, box=box), np.uint8)


def read_labels(path: str, coding: Coding, image_size: tuple[int, int]) -> Labels:
    """The middle of a label map, int64 (H,W), as `LayoutFiles` reads those of its pairs; the same errors."""
    return sample(coding.decode(read_indices(path), path), image_size, CENTRE)


def read_indices(path: str) -> NDArray[np.int32]:
    """The values (h,w) of a PNG of one channel, of a palette the indices; UserError naming the file if it is none."""
    with reading(path), Image.open(path, formats=FORMATS) as image:
        if image.format != "PNG":
            raise UserError(f"labels {path!r} are {image.format}, expected PNG, which keeps every value as it is")
        if image.mode not in ("1", "L", "P", "I", "I;16"):
            raise UserError(
                f"labels {path!r} are in colour (mode {image.mode}), expected a PNG of one channel: give each class a "
                "number, and write the numbers as greyscale or as indices of a palette"
            )
        spread = _SPREAD.get(str(image.tile[0][3]), 1)
        return np.asarray(image).astype(np.int32) // spread


def read_instances(path: str, image_size: tuple[int, int]) -> Instances:
    """The instance numbers int32 (H,W) of a file, its middle resized; UserError naming it if it cannot be read."""
    return sample(read_indices(path), image_size, CENTRE)


def sample(values: Map, image_size: tuple[int, int], view: View) -> Map:
    """The part of a map (h,w) that a view shows, resized to (H,W) by the nearest value to each pixel's middle."""
    left, top, right, bottom = view.box(values.shape, image_size)
    rows, columns = (
        np.clip(start + (np.arange(count) + 0.5) * ((stop - start) / count), 0, most - 1).astype(np.intp)
        for start, stop, count, most in zip((top, left), (bottom, right), image_size, values.shape, strict=True)
    )
    return cast(Map, values[rows[:, None], columns])


def _read_beside(path: str, image_path: str) -> NDArray[np.int32]:
    """The values of a map that lies beside an image, which must be of its size."""
    values = read_indices(path)
    with reading(image_path), Image.open(image_path, formats=FORMATS) as image:
        height, width = _upright(image)
    if values.shape != (height, width):
        raise UserError(
            f"{path!r} is {values.shape[1]}×{values.shape[0]}, expected {width}×{height}, the size of {image_path!r}"
        )
    return values


def _upright(image: Image.Image) -> tuple[int, int]:
    """Height and width of an image that is opened but not loaded, once its EXIF orientation is honoured.

    The method of its class would decode a whole PNG to look behind the pixels.
    """
    on_its_side = Image.Image.getexif(image).get(_ORIENTATION) in _ON_ITS_SIDE
    return (image.width, image.height) if on_its_side else (image.height, image.width)
