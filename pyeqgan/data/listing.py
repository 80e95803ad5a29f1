"""Which files a folder of class folders holds, kept between runs: a million files on a network take minutes to list.

The listing of a large data set is kept in the user's cache (`$XDG_CACHE_HOME/pyeqgan`, by default `~/.cache/pyeqgan`),
never beside the data. A class folder is listed anew when its time of modification is not what it was, which adding,
removing or renaming a file changes. A cache that is damaged or cannot be written is done without.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from pyeqgan.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
WORTH = 10_000  # files; fewer are listed sooner than a cache is worth its place
# A file may be added within the clock tick of the listing: a folder changed so recently is not kept.
SETTLED = 2 * 10**9  # nanoseconds

_Listings = dict[str, tuple[int, list[str]]]  # by class folder: its time of modification, its images


def class_folders(root: Path) -> list[Path]:
    """The folders in `root` that are not hidden, sorted by name; UserError if it cannot be listed."""
    return [root / name for name in sorted(_names(root, lambda entry: _holds(entry.is_dir)))]


def image_files(root: Path, folders: Sequence[Path]) -> list[list[str]]:
    """The names of the images in each class folder of `root`, sorted; UserError if one cannot be listed."""
    cache = _cache_file(root)
    kept = _read(cache)
    listings: _Listings = {}
    for folder in folders:
        modified = _modified(folder)
        known = kept.get(folder.name)
        listings[folder.name] = (modified, images_in(folder)) if known is None or known[0] != modified else known
    if listings != kept and sum(len(names) for _, names in listings.values()) >= WORTH:
        _write(cache, listings)
    return [names for _, names in listings.values()]


def images_in(folder: Path) -> list[str]:
    """The names of the images directly in a folder, sorted; UserError if it cannot be listed."""
    return sorted(_names(folder, lambda entry: entry.name.lower().endswith(SUFFIXES) and _holds(entry.is_file)))


def _names(folder: Path, wanted: Callable[[os.DirEntry[str]], bool]) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries if not entry.name.startswith(".") and wanted(entry)]
    except OSError as error:
        raise UserError(f"cannot list {str(folder)!r}: {error.strerror}") from error


def _holds(kind: Callable[[], bool]) -> bool:
    try:
        return kind()
    except OSError:  # a link that leads to itself
        return False


def _modified(folder: Path) -> int:
    try:
        return folder.stat().st_mtime_ns
    except OSError as error:
        raise UserError(f"cannot list {str(folder)!r}: {error.strerror}") from error


def _cache_file(root: Path) -> Path:
    home = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(home) if os.path.isabs(home) else Path.home() / ".cache"
    name = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:32]
    return base / "pyeqgan" / "listings" / f"{name}.json"


def _read(cache: Path) -> _Listings:
    """What was kept; nothing if there is none, or it is not what was written."""
    try:
        digest, _, text = cache.read_text(encoding="ascii").partition("\n")
        if digest == hashlib.sha256(text.encode()).hexdigest():
            return {name: (modified, names) for name, (modified, names) in json.loads(text).items()}
    except (OSError, ValueError):
        pass
    return {}


def _write(cache: Path, listings: _Listings) -> None:
    now = time.time_ns()
    text = json.dumps({name: kept for name, kept in listings.items() if now - kept[0] > SETTLED})
    digest = hashlib.sha256(text.encode()).hexdigest()
    with contextlib.suppress(OSError):  # a full disk, a home that is read-only
        cache.parent.mkdir(parents=True, exist_ok=True)
        descriptor, unfinished = tempfile.mkstemp(dir=cache.parent, prefix=".")
        try:
            with open(descriptor, "w", encoding="ascii") as file:
                file.write(f"{digest}\n{text}")
            os.replace(unfinished, cache)
        except OSError:
            os.unlink(unfinished)
            raise
