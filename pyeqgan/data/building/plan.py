"""What is to be built: which images of which source, class by class, the seen ones first."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyeqgan.data.building.lists import Candidate, Classes, by_flower_labels, by_folder, cropped
from pyeqgan.data.building.sources import Source, about_source, open_source
from pyeqgan.data.building.split import seen_names
from pyeqgan.errors import UserError
from pyeqgan.options.data_build import DataBuildOptions


@dataclass(frozen=True)
class PlannedClass:
    """A class, where its images come from, and how many of them are taken: the first that can be read."""

    name: str
    seen: bool
    source: Source
    candidates: list[Candidate]
    wanted: int


@dataclass(frozen=True)
class Plan:
    """All that decides what is built.

    Attributes:
        classes: the seen ones by name, then the unseen ones by name.
        left_out: what the sources hold, or a list names, and is not taken; and why.
        digest: two plans of one digest build the same, unless files have changed.
    """

    classes: list[PlannedClass]
    left_out: list[dict[str, str]]
    digest: str

    @property
    def count(self) -> int:
        """Number of images."""
        return sum(planned.wanted for planned in self.classes)


def make_plan(options: DataBuildOptions, scratch: Path) -> Plan:
    """List the sources and decide; `scratch` is a folder for decompressed archives.

    Raises UserError: see `open_source`, `lists` and `seen_names`; no classes, or one that both sources have.
    """
    left_out: list[dict[str, str]] = []
    source = open_source(options.source, scratch)
    classes = {name: (source, found) for name, found in _classes(source, options, left_out).items()}
    if options.unseen is None:
        seen = seen_names(options.seen_classes, list(classes))
    else:
        seen = frozenset(classes)
        other = open_source(options.unseen, scratch)
        unseen = _classes(other, options, left_out)
        if shared := sorted(seen & unseen.keys()):
            raise UserError(f"{len(shared)} classes are in both sources, {shared[0]!r} among them")
        classes |= {name: (other, found) for name, found in unseen.items()}
    most = options.images_per_class
    if options.format == "lofgan":
        smallest = min(len(found) for _, found in classes.values())
        if most is not None and most > smallest:
            name = next(name for name, (_, found) in classes.items() if len(found) == smallest)
            raise UserError(f"--images-per-class {most}: class {name!r} has {smallest}; --min-images leaves it out")
        most = most or smallest
    planned = [
        PlannedClass(name, name in seen, origin, found, min(most or len(found), len(found)))
        for name, (origin, found) in sorted(classes.items(), key=lambda item: (item[0] not in seen, item[0]))
    ]
    return Plan(planned, left_out, _digest(options, planned))


def _classes(source: Source, options: DataBuildOptions, left_out: list[dict[str, str]]) -> Classes:
    """The images of a source by class; notes what is not taken."""
    names = source.names()
    if options.labels is not None:
        classes = by_flower_labels(names, options.labels)
    else:
        classes = by_folder(names)
        taken = {candidate.file for found in classes.values() for candidate in found}
        left_out += [{"file": name, "why": "in no class folder"} for name in names if name not in taken and classes]
    if not classes:
        where = "loose images only" if names else "no images"
        raise UserError(f"{str(source.path)!r} holds {where}: expected one folder of images per class")
    if options.boxes is not None:
        classes, missing = cropped(classes, options.boxes)
        left_out += [{"file": name, "why": "has a box, but is not in the source"} for name in missing]
    small = [name for name, found in classes.items() if len(found) < options.min_images]
    left_out += [
        {"class": name, "why": f"{len(classes[name])} images, --min-images {options.min_images}"} for name in small
    ]
    classes = {name: found for name, found in classes.items() if name not in small}
    if not classes:
        raise UserError(f"no class of {str(source.path)!r} has {options.min_images} images")
    return classes


def _digest(options: DataBuildOptions, classes: list[PlannedClass]) -> str:
    total = hashlib.sha256()

    def add(value: Any) -> None:
        total.update(json.dumps(value).encode() + b"\n")

    for path in (options.source, options.unseen):
        add(None if path is None else about_source(path))
    add([options.image_size, options.format])
    for planned in classes:
        add([planned.name, planned.seen, planned.wanted, planned.candidates])
    return total.hexdigest()
