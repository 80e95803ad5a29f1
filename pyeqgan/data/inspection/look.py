"""A look at one image of a data set: its file, its size, what it hashes to; or why it cannot be read."""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath

from PIL import Image

from pyeqgan.data.archives import ArchiveClasses
from pyeqgan.data.built import BuiltClasses
from pyeqgan.data.classes import ImageClasses
from pyeqgan.data.folders import FORMATS, FolderClasses, decode_image, reading
from pyeqgan.data.inspection.duplicates import Bits, perceptual_bits
from pyeqgan.data.inspection.packed import PackedClasses
from pyeqgan.errors import UserError


@dataclass(frozen=True)
class Look:
    """What an image is.

    Attributes:
        class_index: of the data set.
        name: "class/file", or "class/number".
        size: width × height of what is stored.
        mode: Pillow's name of how colours are stored, such as "RGB".
        digest: SHA-256 of the file, or of the pixels where there is no file; empty if it cannot be read.
        bits: its perceptual hash; None if it cannot be read.
        error: why it cannot be read.
    """

    class_index: int
    name: str
    size: str
    mode: str
    digest: bytes
    bits: Bits | None
    error: str | None = None


def look(classes: ImageClasses, class_index: int, image_index: int) -> Look:
    """Read one image, as training would, and describe it."""
    label = classes.class_names[class_index]
    if isinstance(classes, FolderClasses):
        path = classes.path(class_index, image_index)
        name = f"{path.parent.name}/{path.name}"
        return _look_at_file(class_index, name, str(path), path.read_bytes, classes.image_size)
    if isinstance(classes, PackedClasses):
        file = classes.file(class_index, image_index)
        name = f"{label}/{PurePosixPath(file).name}"
        return _look_at_file(
            class_index, name, file, lambda: classes.read(class_index, image_index), classes.image_size
        )
    name, size = f"{label}/{image_index}", stored_size(classes)
    try:
        pixels = classes.image(class_index, image_index)
    except UserError as error:
        return Look(class_index, name, size, "RGB", b"", None, str(error))
    digest = hashlib.sha256(pixels.tobytes()).digest()
    return Look(class_index, name, size, "RGB", digest, perceptual_bits(pixels))


def stored_size(classes: ImageClasses) -> str:
    """Width × height of the images of an array."""
    size = classes.image_size
    if isinstance(classes, ArchiveClasses):
        size = classes.stored_size
    if isinstance(classes, BuiltClasses):
        size = classes.manifest.image_size
    return f"{size}×{size}"


def _look_at_file(class_index: int, name: str, path: str, read: Callable[[], bytes], image_size: int) -> Look:
    """``path`` names the file where it cannot be decoded; a file that cannot even be read tells so itself."""
    size, mode = "unknown", "unknown"
    try:
        with reading(path):
            data = read()
        # What fails here fails in decode_image, too, which tells of it as training would.
        with contextlib.suppress(Exception), Image.open(io.BytesIO(data), formats=FORMATS) as image:
            size, mode = f"{image.width}×{image.height}", image.mode
        pixels = decode_image(io.BytesIO(data), image_size, name=path)
    except UserError as error:
        return Look(class_index, name, size, mode, b"", None, str(error))
    return Look(class_index, name, size, mode, hashlib.sha256(data).digest(), perceptual_bits(pixels))
