"""A folder that is there whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from pyeqgan.errors import UserError


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
