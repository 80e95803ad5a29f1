"""Data sets built by the tests: their sources, the options, and builds in processes that are killed."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pyeqgan.data.building import build
from pyeqgan.options.data_build import DataBuildOptions

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["builds", "pyeqgan.data.building"])


def write_photos(root: Path, rng: np.random.Generator, counts: dict[str, int], side: int = 48) -> Path:
    """Class folders with so many pictures of random pixels each, none square."""
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for index in range(count):
            pixels = rng.integers(0, 256, (side, side + 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{index}.png")
    return root


def pack(folder: Path, archive: Path) -> Path:
    """A zip, or a tar of the compression that the name tells, with the folder's name before all others."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w") as packed:
            for path in files:
                packed.write(path, path.relative_to(folder.parent))
    else:
        mode = {".tar": "w", ".gz": "w:gz", ".tgz": "w:gz", ".bz2": "w:bz2", ".xz": "w:xz"}[archive.suffix]
        with tarfile.open(archive, mode) as packed:
            for path in files:
                packed.add(path, path.relative_to(folder.parent))
    return archive


def make(source: Path, output: Path, **changed: Any) -> list[str]:
    """Build at 32²; returns what was told."""
    told: list[str] = []
    build(DataBuildOptions(source, output, **({"image_size": 32} | changed)), told.append)
    return told


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def fingerprint(root: Path) -> str:
    """Of names, bytes and times of modification of all that is in a folder."""
    total = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        total.update(f"{path} {path.stat().st_mtime_ns}\n".encode())
        total.update(path.read_bytes() if path.is_file() else b"")
    return total.hexdigest()


def make_until_killed(source: Path, output: Path, *, touches: int = 0, images: int = 0, **options: Any) -> int:
    """Build in a process of its own; returns its exit code, -9 if it was killed before its end.

    Args:
        source: of the build.
        output: of the build.
        touches: kill it when it opens, renames or removes a file of the build for so many times; 0: never.
        images: or when it has read so many images, in a thread, while another one writes.
        options: of the build.
    """
    process = context.Process(target=_make, args=(source, output, touches, images, options), daemon=True)
    process.start()
    process.join(300)
    process.kill()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def _make(source: Path, output: Path, touches: int, images: int, options: dict[str, Any]) -> None:
    left = {str(output.parent / f".{output.name}"): touches, str(source): images}

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir"):
            return
        for place in left:
            if left[place] and str(arguments[0]).startswith(place) and not str(arguments[0]).endswith(".building"):
                left[place] -= 1
                if not left[place]:
                    os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    make(source, output, **options)
