"""Building a data set: beside its place, image after image, and moved there when it is complete.

What is unfinished lies in `.NAME.building` beside the folder NAME. `sources.jsonl` there gets a line for every file
once its pixels are in `images.npy`: killed at any instant, the same command goes on after the last line that is whole.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import os
import platform
import shutil
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL

import pyeqgan
from pyeqgan.data.ahead import ahead
from pyeqgan.data.building.lists import Candidate
from pyeqgan.data.building.plan import Plan, PlannedClass, make_plan
from pyeqgan.data.built import IMAGES, MANIFEST, SOURCES, Manifest, file_digest, is_built, read_manifest
from pyeqgan.data.folders import decode_image
from pyeqgan.data.images import Pixels, check_image_size
from pyeqgan.errors import UserError
from pyeqgan.evaluation.classify import Progress
from pyeqgan.evaluation.folder import write_whole
from pyeqgan.options.data_build import DataBuildOptions
from pyeqgan.training.checkpoint import Report, writing
from pyeqgan.training.run_folder import locked

PLAN = "plan.sha256"
HEADER = 128  # bytes of a .npy header; NumPy makes it a multiple of 64
SPARE = 2**26  # bytes of disk to leave free
MADE = "box or whole image; EXIF orientation unless boxed; transparency over white; central square; Lanczos"


class Outcome(NamedTuple):
    """What became of a file: its pixels and the line that describes them, or the line that says why there are none."""

    line: dict[str, Any]
    pixels: Pixels | None


def build(options: DataBuildOptions, report: Report, progress: Progress | None = None) -> None:
    """Build a data set, or go on with it where it was interrupted; see `pyeqgan.data.built` for what it is.

    Args:
        options: of the command.
        report: called with a line for each thing worth knowing.
        progress: told what is being done.

    Raises:
        UserError: the source, a list, an image or a split does not do, the disk is too small, or the output exists.
    """
    check_image_size(options.image_size)
    output = Path(os.path.abspath(options.output))
    work = output.with_name(f".{output.name}.building")
    _check_room(output, options.force)
    with writing(work):
        work.mkdir(parents=True, exist_ok=True)
    with locked(work, "data build"):
        try:
            plan = make_plan(options, work)
            _begin(work, plan, options.force)
        except BaseException:
            if _begun(work) is None:
                shutil.rmtree(work)
            raise
        if not is_built(work):
            _check_disk(work, plan, options.image_size)
            lines = _write_images(work, plan, options, report, progress)
            _finish(work, plan, lines, options)
        _publish(work, output)
    _tell(read_manifest(output), options, report)


def _write_images(
    work: Path, plan: Plan, options: DataBuildOptions, report: Report, progress: Progress | None
) -> list[dict[str, Any]]:
    """Write the images and a line for each file, those already there left as they are; returns all lines."""
    size = options.image_size
    image_bytes = 3 * size**2
    with writing(work), open(work / IMAGES, "ab+") as images, open(work / SOURCES, "ab+") as journal:
        lines = _good_prefix(images, journal, image_bytes)
        done = sum("crc32" in line for line in lines)
        if done:
            report(f"going on after {done} of {plan.count} images")
        for outcome in _outcomes(plan, lines, size, options.workers):
            if outcome.pixels is None and not options.skip_corrupt:
                raise UserError(f"{outcome.line['error']}; --skip-corrupt leaves it out")
            if outcome.pixels is not None:
                images.write(outcome.pixels.data)
                images.flush()
                done += 1
                if progress is not None:
                    progress("building", done, plan.count)
            journal.write(_encode(outcome.line))
            journal.flush()
            lines.append(outcome.line)
    return lines


def _outcomes(plan: Plan, lines: Sequence[dict[str, Any]], size: int, workers: int) -> Iterator[Outcome]:
    """The files of the plan from where the lines end, in order, each class until it has as many images as wanted.

    Those that are wanted anyway are worked out ahead; what replaces an image that cannot be read is not.
    """
    processed = {planned.name: [0, 0] for planned in plan.classes}
    for line in lines:
        processed[line["class"]][0] += 1
        processed[line["class"]][1] += "crc32" in line
    first, spare = {}, {}
    for planned in plan.classes:
        tried, good = processed[planned.name]
        sure = tried + planned.wanted - good
        first[planned.name] = planned.candidates[tried:sure]
        spare[planned.name] = planned.candidates[sure:]

    def make(item: tuple[PlannedClass, Candidate]) -> Outcome:
        return _make(*item, size)

    items = ((planned, candidate) for planned in plan.classes for candidate in first[planned.name])
    with closing(ahead(make, items, depth=4 * workers, workers=workers, name="building")) as stream:
        for planned in plan.classes:
            good = processed[planned.name][1]
            spares = map(make, ((planned, candidate) for candidate in spare[planned.name]))
            for outcome in itertools.chain(itertools.islice(stream, len(first[planned.name])), spares):
                good += outcome.pixels is not None
                yield outcome
                if good == planned.wanted:
                    break


def _make(planned: PlannedClass, candidate: Candidate, size: int) -> Outcome:
    about: dict[str, Any] = {"class": planned.name, "file": candidate.file}
    if candidate.box is not None:
        about["box"] = candidate.box
    try:
        data = planned.source.read(candidate.file)
        pixels = decode_image(io.BytesIO(data), size, name=candidate.file, box=candidate.box)
    except UserError as error:
        return Outcome({**about, "error": str(error)}, None)
    pixels = np.ascontiguousarray(pixels)
    return Outcome({**about, "sha256": hashlib.sha256(data).hexdigest(), "crc32": zlib.crc32(pixels.data)}, pixels)


def _good_prefix(images: io.BufferedRandom, journal: io.BufferedRandom, image_bytes: int) -> list[dict[str, Any]]:
    """The lines whose pixels are there and whole; cuts both files after them."""
    lines: list[dict[str, Any]] = []
    images.seek(HEADER)
    journal.seek(0)
    image_end, line_end = HEADER, 0
    for text in journal:
        try:
            line = json.loads(text)
        except ValueError:  # half a line
            break
        if "crc32" in line:
            if zlib.crc32(images.read(image_bytes)) != line["crc32"]:
                break
            image_end += image_bytes
        line_end += len(text)
        lines.append(line)
    images.truncate(image_end)
    journal.truncate(line_end)
    return lines


def _finish(work: Path, plan: Plan, lines: list[dict[str, Any]], options: DataBuildOptions) -> None:
    """Write the header of the array, and the manifest, which says that all is complete."""
    counts = {planned.name: 0 for planned in plan.classes}
    for line in lines:
        counts[line["class"]] += "crc32" in line
    size, total = options.image_size, sum(counts.values())
    shape: tuple[int, ...] = (total, size, size, 3)
    for planned in plan.classes:
        least = planned.wanted if options.format == "lofgan" else 1
        if counts[planned.name] < least:
            told = f"class {planned.name!r} has {counts[planned.name]} images that can be read, expected {least}"
            raise UserError(f"{told}: --images-per-class takes fewer, --min-images leaves classes out")
    if options.format == "lofgan":
        shape = (len(counts), plan.classes[0].wanted, size, size, 3)
    with writing(work), open(work / IMAGES, "rb+") as images:
        images.write(_header(shape))
        images.flush()
        os.fsync(images.fileno())
    offsets = itertools.accumulate(counts.values(), initial=0)
    manifest = Manifest(
        image_size=size,
        layout=options.format,
        classes=[
            {"name": planned.name, "images": counts[planned.name], "seen": planned.seen, "offset": offset}
            for planned, offset in zip(plan.classes, offsets, strict=False)
        ],
        sources=[_checksum(path) for path in (options.source, options.unseen, options.labels, options.boxes) if path],
        left_out=plan.left_out + [{"file": line["file"], "why": line["error"]} for line in lines if "error" in line],
        made={
            "how": MADE,
            "pyeqgan": pyeqgan.__version__,
            "Pillow": PIL.__version__,
            "Python": platform.python_version(),
        },
        plan=plan.digest,
        files={
            name: {"bytes": (work / name).stat().st_size, "sha256": file_digest(work / name)}
            for name in (IMAGES, SOURCES)
        },
    )
    write_whole(work / MANIFEST, manifest.to_json().encode())


def _publish(work: Path, output: Path) -> None:
    """Move the complete folder to its place, where an earlier one is removed only now."""
    with writing(output):
        for leftover in work.iterdir():
            if leftover.name not in (IMAGES, SOURCES, MANIFEST):
                leftover.unlink()
        if output.exists():
            for name in (MANIFEST, IMAGES, SOURCES):
                (output / name).unlink(missing_ok=True)
        os.replace(work, output)


def _check_room(output: Path, force: bool) -> None:
    if not output.exists():
        return
    if not output.is_dir():
        raise UserError(f"cannot write {output}: it is no folder")
    names = {path.name for path in output.iterdir()}
    if others := sorted(names - {MANIFEST, IMAGES, SOURCES}):
        raise UserError(f"{output} holds {others[0]!r}, which is no part of built data: expected a new or empty folder")
    if names and not force:
        raise UserError(f"{output} already holds built data: --force replaces it")


def _begun(work: Path) -> str | None:
    """The digest of the plan that an unfinished or unpublished build follows."""
    if is_built(work):
        return read_manifest(work).plan
    return (work / PLAN).read_text() if (work / PLAN).exists() else None


def _begin(work: Path, plan: Plan, force: bool) -> None:
    """Note the plan, unless it is that of the unfinished build; with `force`, another one is removed."""
    begun = _begun(work)
    if begun == plan.digest:
        return
    if begun is not None and not force:
        told = "an unfinished build of other images or with other options"
        raise UserError(f"{work} holds {told}: the same command continues it, --force begins anew")
    with writing(work):
        for name in (MANIFEST, PLAN, IMAGES, SOURCES):
            (work / name).unlink(missing_ok=True)
    write_whole(work / PLAN, plan.digest.encode())


def _check_disk(work: Path, plan: Plan, size: int) -> None:
    there = (work / IMAGES).stat().st_size if (work / IMAGES).exists() else 0
    needed, free = plan.count * 3 * size**2 - there + SPARE, shutil.disk_usage(work).free
    if needed > free:
        raise UserError(
            f"{plan.count} images of {size}² need {_amount(needed)} in {work.parent}, {_amount(free)} are free"
        )


def _tell(manifest: Manifest, options: DataBuildOptions, report: Report) -> None:
    if options.format == "lofgan":
        report(
            f"each class has {manifest.classes[0]['images']} images, the first by name: LoFGAN's form has equal counts"
        )
    if manifest.left_out:
        first = manifest.left_out[0]
        name = first.get("file", first.get("class"))
        report(f"left out: {len(manifest.left_out)}, {name!r} the first ({first['why']}); {MANIFEST} has them all")
    classes = f"{manifest.seen} seen and {len(manifest.classes) - manifest.seen} unseen classes"
    report(f"{manifest.count} images of {manifest.image_size}² in {classes}: {options.output}")


def _checksum(path: Path) -> dict[str, Any]:
    if path.is_dir():
        return {"name": path.resolve().name}
    return {"name": path.name, "bytes": path.stat().st_size, "sha256": file_digest(path)}


def _header(shape: tuple[int, ...]) -> bytes:
    data = io.BytesIO()
    about = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(data, about)  # type: ignore[no-untyped-call]
    assert data.tell() == HEADER
    return data.getvalue()


def _encode(line: dict[str, Any]) -> bytes:
    return json.dumps(line).encode() + b"\n"


def _amount(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"
