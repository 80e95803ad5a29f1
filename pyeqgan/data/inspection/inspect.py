"""Inspecting a data set: every image is read once, and what is found is told and written."""

from __future__ import annotations

import io
import json
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from pyeqgan.data.ahead import ahead
from pyeqgan.data.built import damage, is_built
from pyeqgan.data.classes import ImageClasses, open_classes, seen_count
from pyeqgan.data.inspection.findings import Findings, findings
from pyeqgan.data.inspection.look import Look, look
from pyeqgan.data.inspection.packed import PackedClasses
from pyeqgan.data.inspection.sheet import contact_sheet
from pyeqgan.errors import UserError
from pyeqgan.files import write_whole, writing
from pyeqgan.options.data_inspect import DataInspectOptions
from pyeqgan.telling import Progress, Report

LOOK_SIZE = 64  # pixels: what is decoded, hashed and shown
JSON, SHEET = "inspect.json", "contact_sheet.png"
SHOWN = 5


def inspect(options: DataInspectOptions, report: Report, progress: Progress | None = None) -> Findings:
    """Read every image of a data set and tell what is found; nothing is written but `options.output`.

    Args:
        options: of the command.
        report: called with a line for each thing worth knowing, first what there is, then what is wrong.
        progress: told what is being done.

    Raises:
        UserError: there is no data set, or the output cannot be written or holds an earlier inspection.
    """
    if options.output is not None:
        _check_room(options.output, options.force)
    damaged = damage(Path(options.path)) if is_built(Path(options.path)) else []
    with tempfile.TemporaryDirectory() as scratch:
        classes = _open(options.path, Path(scratch))
        return _inspect(classes, damaged, options, report, progress)


def _open(source: str, scratch: Path) -> ImageClasses:
    """A data set, or an archive that one can be built from."""
    path = Path(source)
    if path.is_file() and path.suffix.lower() != ".npy":
        return PackedClasses(path, LOOK_SIZE, scratch)
    return open_classes(source, image_size=LOOK_SIZE)


def _inspect(
    classes: ImageClasses,
    damaged: list[str],
    options: DataInspectOptions,
    report: Report,
    progress: Progress | None,
) -> Findings:
    seen = seen_count(classes) if options.seen_classes is None else options.seen_classes
    if not 1 <= seen <= len(classes):
        raise UserError(f"--seen-classes {seen}, expected 1 to {len(classes)}")
    looks = _look_at_all(classes, options.workers, progress)
    found = findings(looks, classes.class_names, seen, shots=options.shots, near=options.near, damage=damaged)
    _tell(found, options.near, report)
    if options.output is not None:
        png = io.BytesIO()
        contact_sheet(classes, seen).save(png, format="PNG")
        with writing(options.output):
            options.output.mkdir(parents=True, exist_ok=True)
        write_whole(options.output / SHEET, png.getvalue())
        write_whole(options.output / JSON, json.dumps({"data": options.path, **found.to_dict()}, indent=1).encode())
        report(f"{JSON} and {SHEET} in {options.output}")
    return found


def _look_at_all(classes: ImageClasses, workers: int, progress: Progress | None) -> list[Look]:
    counts = [classes.count(index) for index in range(len(classes))]
    places = ((c, i) for c, count in enumerate(counts) for i in range(count))
    looks = []
    for one in ahead(
        lambda place: look(classes, *place), places, depth=4 * workers, workers=workers, name="inspection"
    ):
        looks.append(one)
        if progress is not None:
            progress("looking at images", len(looks), sum(counts))
    return looks


def _tell(found: Findings, near: int, report: Report) -> None:
    seen = sum(about["seen"] for about in found.classes)
    images = found.images
    report(f"{len(found.classes)} classes, {seen} seen and {len(found.classes) - seen} unseen; {images['sum']} images")
    spread = f"{images['min']} to {images['max']}, median {images['median']:g}"
    report(f"images a class: {spread}; the largest has {found.imbalance:.3g} times those of the smallest")
    report(f"sizes: {_most(found.sizes)}; modes: {_most(found.modes)}")
    where = Counter(pair.where for pair in found.near_duplicates)
    report(f"exact duplicates: {sum(len(group) - 1 for group in found.exact_duplicates)}")
    report(f"near duplicates, up to {near} bits: {_most(where) if where else 0}")
    for pair in found.near_duplicates[:SHOWN]:
        report(f"  {pair.image} is {pair.of}: {pair.bits} bits differ, {pair.where}")
    if len(found.near_duplicates) > SHOWN:
        report(f"  and {len(found.near_duplicates) - SHOWN} more")
    for line in found.wrong:
        report(f"wrong: {line}")


def _most(counts: Mapping[str, int]) -> str:
    told = [f"{count} {what}" for what, count in list(counts.items())[:SHOWN]]
    return ", ".join(told) + (f" and {len(counts) - SHOWN} other kinds" if len(counts) > SHOWN else "")


def _check_room(output: Path, force: bool) -> None:
    earlier = [name for name in (JSON, SHEET) if (output / name).exists()]
    if earlier and not force:
        raise UserError(f"{output} already holds {earlier[0]}: --force replaces it")
