"""Images from a folder that `pyeqgan data build` made: one array of all images, and a manifest that describes them.

pyeqgan.json    classes, split, image size, sources, and the size and SHA-256 of the other two files
images.npy      uint8 (N,S,S,3), class after class, the seen ones first; or (classes, images, S, S, 3), LoFGAN's form
sources.jsonl   a line for every file that was read, in the order of the images: its name and SHA-256, the box it
                was cropped to, the CRC-32 of its pixels in the array; or why it was left out
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pyeqgan.data.images import GIBIBYTE, PixelCache, Pixels, check_image_size, check_index, fit_square, reason
from pyeqgan.errors import UserError

MANIFEST = "pyeqgan.json"
IMAGES = "images.npy"
SOURCES = "sources.jsonl"
FORMAT = 1


@dataclass(frozen=True)
class Manifest:
    """What a built folder holds.

    Attributes:
        image_size: height and width of the images.
        layout: "flat" or "lofgan".
        classes: name, number of images, whether it is seen, and index of its first image in the flat array, of each.
        sources: name, size and SHA-256 of the archives and lists it was made of; folders have a name only.
        left_out: files and classes that were left out, and why.
        made: how each image was made, and by which versions.
        plan: SHA-256 of what was to be built.
        files: size and SHA-256 of the folder's other files.
    """

    image_size: int
    layout: str
    classes: list[dict[str, Any]]
    sources: list[dict[str, Any]]
    left_out: list[dict[str, str]]
    made: dict[str, str]
    plan: str
    files: dict[str, dict[str, Any]]

    @property
    def seen(self) -> int:
        """Number of seen classes, which come first."""
        return sum(about["seen"] for about in self.classes)

    @property
    def count(self) -> int:
        """Number of images."""
        return sum(about["images"] for about in self.classes)

    def to_json(self) -> str:
        """The manifest's text, a SHA-256 of its content at the end."""
        values = {"format": FORMAT, **dataclasses.asdict(self)}
        return json.dumps({**values, "sha256": _digest(values)}, indent=1)


def is_built(path: Path) -> bool:
    """Whether a folder was made by `pyeqgan data build`."""
    return (path / MANIFEST).is_file()


def read_manifest(path: Path) -> Manifest:
    """The manifest of a built folder; UserError if it is damaged or of another format."""
    file = path / MANIFEST
    try:
        values = json.loads(file.read_bytes())
        digest, form = values.pop("sha256"), values["format"]
    except OSError as error:
        raise UserError(f"cannot read {str(file)!r}: {error.strerror}") from error
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{str(file)!r} is damaged: no manifest of pyeqgan data build") from error
    if digest != _digest(values):
        raise UserError(f"{str(file)!r} is damaged: its checksum differs")
    if form != FORMAT:
        raise UserError(f"{str(file)!r} has format {form}, expected {FORMAT}")
    del values["format"]
    return Manifest(**values)


class BuiltClasses:
    """A folder that `pyeqgan data build` made. The array is mapped, not loaded.

    Classes are the seen ones by name, then the unseen ones by name. Images of another size are resized (Lanczos) and
    kept within `cache_bytes`. The checksums of the images are not looked at: `damage` does.

    Raises UserError: a damaged manifest, an array that is missing or not of the manifest's shape, or an image size
    out of range.
    """

    def __init__(self, path: str | Path, image_size: int, *, cache_bytes: int = 2 * GIBIBYTE) -> None:
        self.image_size = check_image_size(image_size)
        self.manifest = read_manifest(Path(path))
        self._images = _map_images(Path(path), self.manifest)
        self._cache = PixelCache(cache_bytes)
        self.class_names: Sequence[str] = tuple(about["name"] for about in self.manifest.classes)

    def __len__(self) -> int:
        return len(self.manifest.classes)

    def count(self, class_index: int) -> int:
        """Number of images in a class."""
        return int(self.manifest.classes[check_index("class", class_index, len(self))]["images"])

    def image(self, class_index: int, image_index: int) -> Pixels:
        """One image, uint8 RGB (S,S,3), read-only."""
        check_index("image", image_index, self.count(class_index))
        stored: Pixels = self._images[self.manifest.classes[class_index]["offset"] + image_index]
        if len(stored) == self.image_size:
            return stored
        key = (class_index, image_index)
        return self._cache.get(key, lambda: fit_square(Image.fromarray(stored), self.image_size))


def damage(path: Path) -> list[str]:
    """What is not as it was built, a line each; of the images each one that differs. UserError: see `read_manifest`."""
    manifest = read_manifest(path)
    found = []
    for name, known in manifest.files.items():
        try:
            size, digest = (path / name).stat().st_size, file_digest(path / name)
        except OSError as error:
            found.append(f"{name}: {error.strerror}")
            continue
        if size != known["bytes"]:
            found.append(f"{name}: expected {known['bytes']} bytes, got {size}")
        elif digest != known["sha256"]:
            found.append(f"{name}: its checksum differs from that of {MANIFEST}")
            if name == IMAGES:
                found += _damaged_images(path, manifest)
    return found


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    total = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            total.update(block)
    return total.hexdigest()


def _damaged_images(path: Path, manifest: Manifest) -> Iterator[str]:
    try:
        images = _map_images(path, manifest)
        lines = [json.loads(line) for line in (path / SOURCES).read_text(encoding="ascii").splitlines()]
    except (OSError, ValueError, UserError):
        return  # the header of the one, or the text of the other, is damaged too: which images are is not known
    for image, line in zip(images, (line for line in lines if "crc32" in line), strict=False):
        if zlib.crc32(image.tobytes()) != line["crc32"]:
            yield f"{IMAGES}: the image of {line['file']!r}, class {line['class']!r}, is not what it was"


def _map_images(path: Path, manifest: Manifest) -> Pixels:
    """The images (N,S,S,3), mapped, whichever layout they are in."""
    file = path / IMAGES
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # a damaged header makes its parser raise nearly anything
        raise UserError(f"cannot read {str(file)!r}: {reason(error)}") from error
    size, count = manifest.image_size, manifest.count
    shape = (count, size, size, 3)
    if manifest.layout == "lofgan":
        shape = (len(manifest.classes), count // len(manifest.classes), size, size, 3)  # type: ignore[assignment]
    if array.shape != shape or array.dtype != np.uint8:
        raise UserError(f"{str(file)!r} has shape {array.shape}, dtype {array.dtype}, expected {shape}, uint8")
    return np.asarray(array).reshape(count, size, size, 3)


def _digest(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
