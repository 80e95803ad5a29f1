"""Where images are built from: a folder, a zip or a tar. None is ever changed, and nothing is unpacked by its name."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from pyeqgan.data.images import reason
from pyeqgan.data.listing import SUFFIXES, class_folders, images_in
from pyeqgan.errors import UserError
from pyeqgan.files import writing

LARGEST_FILE = 2**28  # bytes of one image's file
# Images hardly compress: an archive that grows more is made to fill a disk.
LARGEST_RATIO, ALWAYS_ALLOWED = 100, 2**26
BLOCK = 2**20
COMPRESSIONS = {b"\x1f\x8b": gzip, b"BZh": bz2, b"\xfd7zXZ": lzma}  # by what a file begins with


class Source(Protocol):
    """Files of images, by name."""

    path: Path

    def names(self) -> list[str]:
        """The images, sorted; folders are separated by "/". Hidden files and those in hidden folders are none."""

    def read(self, name: str) -> bytes:
        """The bytes of a file, by any thread. UserError naming it if it cannot be read, or is too large."""


class FolderSource:
    """A folder and the folders in it. Links are followed, but not back up."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def names(self) -> list[str]:
        """Every image in the folder, at any depth."""
        return sorted(_walk(self.path, "", frozenset()))

    def read(self, name: str) -> bytes:
        """The bytes of a file."""
        path = self.path / name
        try:
            if path.stat().st_size > LARGEST_FILE:
                raise _too_large(name)
            return path.read_bytes()
        except OSError as error:
            raise UserError(f"cannot read image {name!r}: {error.strerror}") from error


class ZipSource:
    """A zip archive, read where it is."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._archive = zipfile.ZipFile(path)
        except (OSError, zipfile.BadZipFile) as error:
            raise UserError(f"cannot read {str(path)!r}: {reason(error)}") from error
        self._members = {about.filename: about for about in self._archive.infolist() if is_image(about.filename)}
        _check_growth(path, sum(about.file_size for about in self._members.values()))

    def names(self) -> list[str]:
        """Every image in the archive."""
        return sorted(map(_safe, self._members))

    def read(self, name: str) -> bytes:
        """The bytes of a member."""
        if self._members[name].file_size > LARGEST_FILE:
            raise _too_large(name)
        try:
            return self._archive.read(name)
        except Exception as error:  # damaged, encrypted, or compressed in a way that is unknown
            raise UserError(f"cannot read image {name!r}: {reason(error)}") from error


class TarSource:
    """A tar archive that is not compressed, read where it is."""

    def __init__(self, path: Path, file: Path) -> None:
        self.path = path
        self._file = file
        self._places: dict[str, tuple[int, int]] = {}
        try:
            with tarfile.open(file, "r:") as archive:
                for about in archive:
                    if is_image(about.name) and not about.isdir():
                        if not about.isfile():
                            raise UserError(f"{about.name!r} in {str(path)!r} is a link, expected a file")
                        self._places[about.name] = (about.offset_data, about.size)
        except (OSError, tarfile.TarError) as error:
            raise UserError(f"cannot read {str(path)!r} as a tar archive: {reason(error)}") from error

    def names(self) -> list[str]:
        """Every image in the archive."""
        return sorted(map(_safe, self._places))

    def read(self, name: str) -> bytes:
        """The bytes of a member."""
        offset, size = self._places[name]
        if size > LARGEST_FILE:
            raise _too_large(name)
        with open(self._file, "rb") as file:
            file.seek(offset)
            data = file.read(size)
        if len(data) < size:
            raise UserError(f"cannot read image {name!r}: the archive ends before it does")
        return data


def open_source(path: Path, scratch: Path) -> Source:
    """Open a folder or an archive; of a compressed tar, a plain one is left in the folder `scratch`, and found again.

    Raises UserError: there is none, it is neither, is damaged, has unsafe names, or grows beyond all measure.
    """
    if path.is_dir():
        return FolderSource(path)
    if not path.is_file():
        raise UserError(f"no file or folder {str(path)!r}, expected class folders or an archive of them")
    if zipfile.is_zipfile(path):
        return ZipSource(path)
    compression = _compression(path)
    plain = path if compression is None else _decompressed(path, compression, scratch)
    if not tarfile.is_tarfile(plain):
        raise UserError(f"{str(path)!r} is no folder, zip or tar: expected class folders or an archive of them")
    return TarSource(path, plain)


def about_source(path: Path) -> dict[str, Any]:
    """What tells an archive from another one of its name, without reading it."""
    if path.is_dir():
        return {"path": str(path.resolve())}
    stat = path.stat()
    return {"path": str(path.resolve()), "bytes": stat.st_size, "modified": stat.st_mtime_ns}


def is_image(name: str) -> bool:
    """Whether a name is an image's, and neither it nor a folder of its path is hidden."""
    parts = PurePosixPath(name).parts
    hidden = any(part == "__MACOSX" or (part.startswith(".") and part not in (".", "..")) for part in parts)
    return name.lower().endswith(SUFFIXES) and not hidden


def _safe(name: str) -> str:
    """The name of an archive's member; UserError if it leads out of the archive."""
    if name.startswith(("/", "\\")) or ".." in PurePosixPath(name.replace("\\", "/")).parts:
        raise UserError(f"the archive holds {name!r}, a name that leads out of it: refused")
    return name


def _walk(folder: Path, prefix: str, above: frozenset[tuple[int, int]]) -> Iterator[str]:
    stat = folder.stat()
    here = (stat.st_dev, stat.st_ino)
    if here in above:
        return
    yield from (prefix + name for name in images_in(folder))
    for inner in class_folders(folder):
        yield from _walk(inner, f"{prefix}{inner.name}/", above | {here})


def _compression(path: Path) -> Any:
    """The module that decompresses a file; None for one that is not compressed."""
    with open(path, "rb") as file:
        start = file.read(8)
    return next((module for magic, module in COMPRESSIONS.items() if start.startswith(magic)), None)


def _decompressed(path: Path, compression: Any, scratch: Path) -> Path:
    """The tar that a compressed file holds: its members are then found without reading all before them."""
    key = hashlib.sha256(repr(about_source(path)).encode()).hexdigest()[:16]
    plain = scratch / f"{key}.tar"
    if plain.exists():
        return plain
    unfinished = scratch / f"{key}.unfinished"
    with writing(unfinished), open(unfinished, "wb") as file, compression.open(path, "rb") as compressed:
        try:
            while block := compressed.read(BLOCK):
                file.write(block)
                _check_growth(path, file.tell())
        except (EOFError, lzma.LZMAError, gzip.BadGzipFile, zlib.error) as error:
            raise UserError(f"cannot read {str(path)!r}: {reason(error)}") from error
        file.flush()
        unfinished.rename(plain)
    return plain


def _check_growth(path: Path, size: int) -> None:
    if size > max(ALWAYS_ALLOWED, LARGEST_RATIO * path.stat().st_size):
        raise UserError(f"{str(path)!r} holds more than {LARGEST_RATIO} times its own size: refused")


def _too_large(name: str) -> UserError:
    return UserError(f"cannot read image {name!r}: its file is larger than {LARGEST_FILE // 2**20} MiB")
