"""A zip or tar of class folders, looked at where it is: what `pyeqgan data build` would make of it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from pyeqgan.data.building.lists import by_folder
from pyeqgan.data.building.sources import open_source
from pyeqgan.data.folders import decode_image
from pyeqgan.data.images import Pixels, check_image_size, check_index
from pyeqgan.errors import UserError


class PackedClasses:
    """The images of an archive by the folder they lie in, see `by_folder`; read one at a time, never kept.

    Args:
        path: of the archive.
        image_size: height and width of the images.
        scratch: folder for the plain form of a compressed tar.

    Raises UserError: no archive, a damaged or unsafe one, or one without images in class folders.
    """

    def __init__(self, path: Path, image_size: int, scratch: Path) -> None:
        self.image_size = check_image_size(image_size)
        self._source = open_source(path, scratch)
        classes = by_folder(self._source.names())
        if not classes:
            raise UserError(f"{str(path)!r} holds no folders of images: expected one per class")
        self.class_names: Sequence[str] = tuple(classes)
        self._files = [[candidate.file for candidate in found] for found in classes.values()]

    def __len__(self) -> int:
        return len(self._files)

    def count(self, class_index: int) -> int:
        """Number of images in a class."""
        return len(self._files[check_index("class", class_index, len(self))])

    def file(self, class_index: int, image_index: int) -> str:
        """The name of an image's file in the archive."""
        return self._files[class_index][check_index("image", image_index, self.count(class_index))]

    def read(self, class_index: int, image_index: int) -> bytes:
        """The bytes of an image's file."""
        return self._source.read(self.file(class_index, image_index))

    def image(self, class_index: int, image_index: int) -> Pixels:
        """One image, uint8 RGB (S,S,3)."""
        data = io.BytesIO(self.read(class_index, image_index))
        return decode_image(data, self.image_size, name=self.file(class_index, image_index))
