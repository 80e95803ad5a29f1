"""Images from a folder of class folders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

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
from pyeqgan.data.listing import SUFFIXES, class_folders, image_files
from pyeqgan.errors import UserError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP")  # nothing else is decoded, whatever a file claims to be
Box = tuple[float, float, float, float]


class FolderClasses:
    """`root/<class>/<image>`: every folder in `root` is a class, every image directly in it one of its images.

    Images are the files ending in .jpg, .jpeg, .png, .webp or .bmp, in any case; other files, hidden files and
    folders (a leading dot) and folders inside a class are ignored. Links are followed. Classes and images are
    sorted by name. The folders are listed once, now, or the user's cache has their listing (see `listing`); an image is
    decoded when it is first asked for, and kept as uint8 while all those kept fit in `cache_bytes` (least recently
    used dropped first).

    Decoding honours the EXIF orientation, lays transparency over white, scales 16-bit greyscale to 8 bits, takes
    the first frame of an animation, resizes the shortest side to `image_size` (Lanczos) and crops the centre.

    Raises UserError: root missing, no folder, without class folders, or with classes that have no image (named);
    an image that cannot be decoded (named, when it is read); an image size out of range.
    """

    def __init__(self, root: str | Path, image_size: int, *, cache_bytes: int = 2 * GIBIBYTE) -> None:
        self.image_size = check_image_size(image_size)
        self._folders = _class_folders(Path(root))
        self._files = image_files(Path(root), self._folders)
        self._cache = PixelCache(cache_bytes)
        self.class_names: Sequence[str] = tuple(folder.name for folder in self._folders)
        empty = [name for name, files in zip(self.class_names, self._files, strict=True) if not files]
        if empty:
            names = ", ".join(map(repr, empty[:5])) + (f" and {len(empty) - 5} more" if len(empty) > 5 else "")
            raise UserError(f"class folders without an image ({', '.join(SUFFIXES)}) in {str(root)!r}: {names}")

    def __len__(self) -> int:
        return len(self._files)

    def count(self, class_index: int) -> int:
        """Number of images in a class."""
        return len(self._files[check_index("class", class_index, len(self))])

    def path(self, class_index: int, image_index: int) -> Path:
        """The file of an image."""
        name = self._files[class_index][check_index("image", image_index, self.count(class_index))]
        return self._folders[class_index] / name

    def image(self, class_index: int, image_index: int) -> Pixels:
        """One image, uint8 RGB (S,S,3), read-only."""
        path = self.path(class_index, image_index)
        return self._cache.get((class_index, image_index), lambda: read_image(path, self.image_size))


def read_image(path: Path, image_size: int) -> Pixels:
    """Decode one file to uint8 RGB (S,S,3) as `FolderClasses` describes; UserError naming the file if that fails."""
    return decode_image(path, image_size, name=str(path))


def decode_image(file: Path | IO[bytes], image_size: int, *, name: str, box: Box | None = None) -> Pixels:
    """Decode a file, or the part of it within a box, to uint8 RGB (S,S,3) as `FolderClasses` describes.

    Args:
        file: path, or the opened file.
        image_size: S.
        name: of the file, for the error.
        box: left, top, right, bottom in pixels as they are stored, cut at the image's edges.

    Raises UserError: it cannot be decoded, or nothing of it lies in the box.
    """
    with reading(name), Image.open(file, formats=FORMATS) as image:
        if box is None:
            image.draft("RGB", (2 * image_size, 2 * image_size))  # a JPEG may decode at a fraction of its size
            return fit_square(to_rgb(ImageOps.exif_transpose(image)), image_size)
        return fit_square(to_rgb(image.crop(_within(box, image.size))), image_size)


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Within: what goes wrong with an image becomes an `UnreadableImageError` that names it."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # a damaged file makes decoders raise nearly anything
        why = "not an image" if isinstance(error, UnidentifiedImageError) else reason(error)
        raise UnreadableImageError(f"cannot read image {name!r}: {why}") from error


def _within(box: Box, size: tuple[int, int]) -> tuple[int, int, int, int]:
    left, top, right, bottom = map(round, box)
    cut = max(left, 0), max(top, 0), min(right, size[0]), min(bottom, size[1])
    if cut[0] >= cut[2] or cut[1] >= cut[3]:
        raise ValueError(f"nothing of it, {size[0]}×{size[1]}, lies in the box {left} {top} {right} {bottom}")
    return cut


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB of an image of any mode, as `FolderClasses` describes."""
    if image.mode.startswith("I"):  # 16-bit greyscale, which Pillow's own conversion clips at 255
        return Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _class_folders(root: Path) -> list[Path]:
    if not root.exists():
        raise UserError(f"no folder {str(root)!r}, expected a folder of class folders")
    if not root.is_dir():
        raise UserError(f"{str(root)!r} is no folder, expected a folder of class folders")
    folders = class_folders(root)
    if not folders:
        raise UserError(f"no class folders in {str(root)!r}, expected one folder of images per class")
    return folders
