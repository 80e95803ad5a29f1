"""Lists that tell which class an image belongs to, or which part of it is wanted: those of the published data sets."""

from __future__ import annotations

import math
import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from pyeqgan.data.folders import Box
from pyeqgan.data.images import reason
from pyeqgan.errors import UserError


class Candidate(NamedTuple):
    """A file of a source that may become an image, or a part of one."""

    file: str
    box: Box | None = None


Classes = dict[str, list[Candidate]]


def by_folder(names: Sequence[str]) -> Classes:
    """Images by the folder they lie in, named by its path below the folder that all of them share.

    "photos/daisy/1.jpg" is of class "daisy", "omniglot/Greek/character01/1.png" of "Greek/character01", if there are
    others beside them. Images directly in the shared folder are of none.
    """
    folders = {PurePosixPath(name).parent for name in names}
    if len(folders) == 1:
        (only,) = folders
        return {only.name: [Candidate(name) for name in names]} if only.name else {}
    shared = os.path.commonpath([f"./{folder}" for folder in folders]) if folders else "."
    classes = defaultdict(list)
    for name in names:
        label = PurePosixPath(os.path.relpath(f"./{PurePosixPath(name).parent}", shared)).as_posix()
        if label != ".":
            classes[label].append(Candidate(name))
    return dict(sorted(classes.items()))


def by_flower_labels(names: Sequence[str], labels: Path) -> Classes:
    """Images of Oxford Flowers-102 by `imagelabels.mat`: `image_00001.jpg` has the first label; classes "001" to "102".

    Raises UserError: scipy is not installed, the file holds no labels, or an image has none.
    """
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise UserError("--labels reads .mat files by scipy: pip install 'pyeqgan[data]'") from error
    try:
        numbers = np.ravel(loadmat(labels)["labels"]).astype(int).tolist()
    except Exception as error:  # no file, no .mat, no labels
        raise UserError(f"cannot read labels from {str(labels)!r}: {reason(error)}") from error
    classes = defaultdict(list)
    for name in names:
        number = re.fullmatch(r"image_(\d+)", PurePosixPath(name).stem)
        if number is None or not 1 <= int(number[1]) <= len(numbers):
            raise UserError(
                f"{name!r} has no label in {str(labels)!r}: expected image_00001 to image_{len(numbers):05d}"
            )
        classes[f"{numbers[int(number[1]) - 1]:03d}"].append(Candidate(name))
    return dict(sorted(classes.items()))


def cropped(classes: Mapping[str, Sequence[Candidate]], boxes: Path) -> tuple[Classes, list[str]]:
    """The boxes of a list, each an image: lines "FILE LEFT TOP RIGHT BOTTOM", as FUNIT's of Animal Faces are.

    FILE is the end of a path in the source, such as "n02085620/n02085620_7.JPEG". Images that are not listed are not
    taken; an image may be listed several times.

    Returns:
        The images by class, and the listed files that the source does not have.

    Raises:
        UserError: a line is none of this form, or the source has none of the files.
    """
    wanted = _read_boxes(boxes)
    found: set[str] = set()
    result: Classes = {}
    for label, candidates in classes.items():
        parts = []
        for candidate in candidates:
            listed = next((end for end in _ends(candidate.file) if end in wanted), None)
            if listed is not None:
                found.add(listed)
                parts += [Candidate(candidate.file, box) for box in wanted[listed]]
        if parts:
            result[label] = parts
    if not result:
        raise UserError(
            f"none of the {len(wanted)} files of {str(boxes)!r} is in the source: {next(iter(wanted), '')!r}"
        )
    return result, sorted(wanted.keys() - found)


def _read_boxes(boxes: Path) -> dict[str, list[Box]]:
    wanted = defaultdict(list)
    try:
        lines = boxes.read_text().splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read boxes from {str(boxes)!r}: {reason(error)}") from error
    for number, line in enumerate(filter(str.strip, lines), 1):
        name, *numbers = line.strip().rsplit(maxsplit=4)
        box = _box(numbers)
        if box is None:
            raise UserError(f"{str(boxes)!r}, line {number}: expected FILE LEFT TOP RIGHT BOTTOM, got {line!r}")
        wanted[name].append(box)
    return wanted


def _box(numbers: Sequence[str]) -> Box | None:
    try:
        left, top, right, bottom = map(float, numbers)
    except ValueError:
        return None
    return (left, top, right, bottom) if all(map(math.isfinite, (left, top, right, bottom))) else None


def _ends(name: str) -> list[str]:
    """Of "a/b/c": "a/b/c", "b/c" and "c"."""
    parts = name.split("/")
    return ["/".join(parts[start:]) for start in range(len(parts))]
