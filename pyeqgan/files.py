"""Files and folders that are there whole or not at all, and whose faults are told in one line."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from pyeqgan.errors import UserError


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Within: an `OSError`, such as a full disk, becomes a `UserError` of one line that names `path`."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


def write_durably(path: Path, data: bytes) -> None:
    """Write a file and wait until it is on the disk."""
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def write_whole(path: Path, data: bytes) -> None:
    """Write or replace a file, whole or not at all.

    Raises:
        UserError: it cannot be written, for example because the disk is full.
    """
    unfinished = path.with_name(f".{path.name}")
    with writing(path):
        try:
            write_durably(unfinished, data)
            unfinished.replace(path)
        except OSError:
            unfinished.unlink(missing_ok=True)
            raise


@contextmanager
def new_folder(path: Path, replace: Collection[str] = ()) -> Iterator[Path]:
    """Within: an empty folder beside `path`, which takes its place at the end, unless there was an error.

    Args:
        path: a new or empty folder.
        replace: files that may lie there; they are given up for the new ones.

    Raises:
        UserError: `path` holds another file, or the folder cannot be written, for example because the disk is full.
    """
    path = path.resolve()
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        earlier = list(path.iterdir()) if path.exists() else []
        other = sorted(file.name for file in earlier if file.name not in replace)
        if other:
            raise UserError(f"{path} already holds {other[0]}: expected a new or empty folder")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        try:
            yield unfinished
            for file in earlier:
                file.unlink()
            unfinished.replace(path)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


@contextmanager
def locked(path: Path, command: str) -> Iterator[None]:
    """Within: the folder is this command's alone. The lock is the kernel's, so a killed process leaves none behind."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"{path} is in use by another pyeqgan {command}") from error
        yield
    finally:
        os.close(descriptor)


def flush_folder(path: Path) -> None:
    """Make new names in a folder survive a crash of the machine."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
