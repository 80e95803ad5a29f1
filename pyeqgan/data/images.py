"""What every source of images shares: the legal sizes, the square crop and a bounded cache."""

from __future__ import annotations

import operator
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pyeqgan.errors import UserError

Pixels = NDArray[np.uint8]

GIBIBYTE = 2**30


class UnreadableImageError(UserError):
    """A file that cannot be decoded, or is not there any more; says which, on one line."""


def check_image_size(size: int) -> int:
    """`size` itself if a model can be built for it: a multiple of 16 from 32 to 256; UserError otherwise."""
    if isinstance(size, bool) or not isinstance(size, int) or not 32 <= size <= 256 or size % 16:
        raise UserError(f"image size {size!r}, expected a multiple of 16 from 32 to 256")
    return size


def check_index(kind: str, index: int, count: int) -> int:
    """`index` itself if it lies in [0, count); IndexError otherwise (a negative one never wraps around)."""
    index = operator.index(index)
    if not 0 <= index < count:
        raise IndexError(f"{kind} {index}, expected 0 to {count - 1}")
    return index


def reason(error: Exception) -> str:
    """What an exception of a library says, on one line; of the system's without the file, which the caller names."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).partition("\n")[0] or type(error).__name__


def fit_square(image: Image.Image, size: int) -> Pixels:
    """Resize the shortest side of an RGB image to `size` (Lanczos, antialiased), crop the centre: (S,S,3) uint8.

    Both are done as one resampling of the central square, so that a very long image costs no more than its square.
    """
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    box = (left, top, left + side, top + side)
    return np.asarray(image.resize((size, size), Image.Resampling.LANCZOS, box=box), dtype=np.uint8)


class PixelCache:
    """Images and other maps kept by key, least recently used dropped first once they exceed `max_bytes`.

    Safe between threads. What it returns is shared and therefore read-only. An image larger than `max_bytes` is made
    but not kept.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.nbytes = 0
        self._kept: OrderedDict[Hashable, NDArray[Any]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], NDArray[Any]]) -> NDArray[Any]:
        """The image of `key`, from `make()` unless it is kept; `make` runs outside the lock."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        image = make()
        image.flags.writeable = False
        with self._lock:
            if key not in self._kept and image.nbytes <= self.max_bytes:
                self._kept[key] = image
                self.nbytes += image.nbytes
                while self.nbytes > self.max_bytes:
                    self.nbytes -= self._kept.popitem(last=False)[1].nbytes
        return image
