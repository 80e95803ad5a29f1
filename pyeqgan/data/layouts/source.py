"""How a source of pairs is opened."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pyeqgan.data.ahead import ahead
from pyeqgan.data.layouts.embedded import EmbeddedLayouts
from pyeqgan.data.layouts.files import LayoutFiles, PairFiles, read_indices
from pyeqgan.data.layouts.images import MOST_CLASSES, Coding, LayoutSplit
from pyeqgan.data.layouts.structures import Structure, recognise
from pyeqgan.errors import UserError
from pyeqgan.telling import Progress

EMBEDDED = "embedded-layouts"
EMBEDDED_TRAIN, EMBEDDED_TEST = 2000, 500
CLASSES_FILE = "classes.txt"
IGNORED_VALUE = 255


def open_layouts(
    source: str | Path,
    *,
    image_size: tuple[int, int],
    num_classes: int | None = None,
    ignore_index: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> LayoutSplit:
    """Open a data source of images and label maps, split in pairs to train on and pairs to evaluate on.

    Args:
        source: "embedded-layouts" for the procedural landscapes (a folder of that name is "./embedded-layouts"), a
            folder of images/ and labels/, or Cityscapes, ADE20K or COCO-Stuff as they unpack (see `structures`).
        image_size: height and width that every pair is brought to.
        num_classes: of a folder of one's own. Default: as many as `classes.txt` in it names, one a line; without that
            file all labels are read once, and there is one class more than the largest of them.
        ignore_index: of a folder of one's own, the value of a pixel without a class, by default 255.
        seed: of the embedded landscapes; files do not depend on it.
        progress: told of the reading of all labels.

    Raises UserError for a source that is none of these or lacks a part, an argument out of range or one that
    contradicts what is known of the source.
    """
    if source == EMBEDDED:
        _refuse("the embedded layouts", num_classes=num_classes, ignore_index=ignore_index)
        return LayoutSplit(
            EmbeddedLayouts("train", EMBEDDED_TRAIN, image_size, seed),
            EmbeddedLayouts("test", EMBEDDED_TEST, image_size, seed),
        )
    root = Path(source)
    found = recognise(root)
    if found.kind is not None:
        _refuse(found.kind, num_classes=num_classes, ignore_index=ignore_index)
    coding, names = _coding(root, found, num_classes, ignore_index, progress)
    return LayoutSplit(*(LayoutFiles(part, coding, names, image_size) for part in (found.train, found.test)))


def _refuse(kind: str, **given: int | None) -> None:
    for name, value in given.items():
        if value is not None:
            raise UserError(f"{name.replace('_', ' ')} {value} was given, but that of {kind} is known: leave it out")


def _coding(
    root: Path, found: Structure, num_classes: int | None, ignore_index: int | None, progress: Progress | None
) -> tuple[Coding, Sequence[str]]:
    """What the values of the labels mean, and the names of the classes."""
    ignored = found.ignored if ignore_index is None else ignore_index
    if not 0 <= ignored < 2**16:
        raise UserError(f"ignore index {ignored}, expected 0 to {2**16 - 1}, a value that labels may have")
    names = _class_names(root) or found.class_names
    count = found.num_classes or num_classes or (len(names) if names else None)
    if num_classes is not None and not 1 <= num_classes <= MOST_CLASSES:
        raise UserError(f"number of classes {num_classes}, expected 1 to {MOST_CLASSES}")
    if count is None:
        count = _count_classes([*found.train, *found.test], ignored, progress)
    if names is not None and len(names) != count:
        raise UserError(f"{CLASSES_FILE} in {str(root)!r} names {len(names)} classes, expected {count}")
    return Coding(count, ignored, found.first), names or tuple(map(str, range(count)))


def _class_names(root: Path) -> Sequence[str] | None:
    path = root / CLASSES_FILE
    if not path.is_file():
        return None
    try:
        names = tuple(line.strip() for line in path.read_text(encoding="utf-8").strip().splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {str(path)!r}: expected text in UTF-8, the name of a class a line") from error
    if not names or "" in names or len(set(names)) < len(names):
        raise UserError(
            f"{str(path)!r} has no name, an empty line or a name twice, expected the name of a class a line"
        )
    return names


def _count_classes(files: Sequence[PairFiles], ignored: int, progress: Progress | None) -> int:
    """One more than the largest label of all files."""

    def largest(pair: PairFiles) -> int:
        values = read_indices(pair.labels)
        return int(np.max(values, initial=-1, where=values != ignored))

    most = -1
    for done, value in enumerate(ahead(largest, files, depth=8, workers=2, name="labels"), 1):
        most = max(most, value)
        if progress is not None:
            progress("reading labels", done, len(files))
    if not 0 <= most < MOST_CLASSES:
        what = "no pixel of any image has a class" if most < 0 else f"the largest label is {most}"
        raise UserError(f"{what}, expected labels from 0 to at most {MOST_CLASSES - 1}, and {ignored} for none")
    return most + 1
