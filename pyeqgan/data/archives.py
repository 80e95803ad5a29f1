"""Images from one `.npy` array, the format of LoFGAN's data sets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pyeqgan.data.images import (
    GIBIBYTE,
    PixelCache,
    Pixels,
    UnreadableImageError,
    check_image_size,
    check_index,
    fit_square,
    reason,
)
from pyeqgan.errors import UserError


class ArchiveClasses:
    """A `.npy` file (classes, images, H, W, 3), H = W: uint8 from 0 to 255, or any float from 0 to 1.

    The file is mapped, not loaded, and nothing in it is ever unpickled. Images of another size are resized
    (Lanczos) and kept as uint8 within `cache_bytes`. Classes are named "class_0000", "class_0001", …

    Raises UserError: no such file, not an array file, another shape or dtype, an image size out of range; and, when
    the image is read, float values outside [0, 1] or not finite.
    """

    def __init__(self, path: str | Path, image_size: int, *, cache_bytes: int = 2 * GIBIBYTE) -> None:
        self.image_size = check_image_size(image_size)
        self._path = Path(path)
        self._images = _map_array(self._path)
        self.stored_size = int(self._images.shape[2])
        self._cache = PixelCache(cache_bytes)
        digits = max(4, len(str(len(self) - 1)))
        self.class_names: Sequence[str] = tuple(f"class_{index:0{digits}d}" for index in range(len(self)))

    def __len__(self) -> int:
        return len(self._images)

    def count(self, class_index: int) -> int:
        """Number of images in a class, the same for all."""
        check_index("class", class_index, len(self))
        return int(self._images.shape[1])

    def image(self, class_index: int, image_index: int) -> Pixels:
        """One image, uint8 RGB (S,S,3); read-only."""
        check_index("image", image_index, self.count(class_index))
        return self._cache.get((class_index, image_index), lambda: self._read(class_index, image_index))

    def _read(self, class_index: int, image_index: int) -> Pixels:
        image = np.array(self._images[class_index, image_index], order="C")
        if image.dtype.kind == "f":
            if not (image.min() >= 0 and image.max() <= 1):  # written so that NaN fails too
                raise UnreadableImageError(
                    f"image {image_index} of class {class_index} in {str(self._path)!r} has values from "
                    f"{image.min():g} to {image.max():g}, expected floats from 0 to 1"
                )
            image = np.rint(image.astype(np.float32) * 255).astype(np.uint8)
        if len(image) == self.image_size:
            return image
        return fit_square(Image.fromarray(image), self.image_size)


def _map_array(path: Path) -> NDArray[Any]:
    if not path.is_file():
        raise UserError(f"no file {str(path)!r}, expected a .npy archive (classes, images, H, W, 3)")
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # a damaged header makes its parser raise nearly anything
        raise UserError(f"cannot read {str(path)!r} as a .npy array: {reason(error)}") from error
    if not isinstance(array, np.ndarray):
        raise UserError(f"{str(path)!r} is a .npz collection, expected a single .npy array")
    square = array.ndim == 5 and array.shape[2] == array.shape[3] and array.shape[4] == 3 and array.size > 0
    if not square:
        raise UserError(f"{str(path)!r} has shape {array.shape}, expected (classes, images, H, H, 3), none of them 0")
    if array.dtype != np.uint8 and array.dtype.kind != "f":
        raise UserError(f"{str(path)!r} has dtype {array.dtype}, expected uint8 (0 to 255) or float (0 to 1)")
    return array
