"""Building a data set: beside its place, image after image, and moved there when it is complete.

What is unfinished lies in `.NAME.building` beside the folder NAME; see `journal` for how it is continued.
"""

from __future__ import annotations

import io
import itertools
import os
import platform
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import PIL

import pyeqgan
from pyeqgan.data.building.journal import HEADER, write_images
from pyeqgan.data.building.plan import Plan, make_plan
from pyeqgan.data.built import IMAGES, MANIFEST, SOURCES, Manifest, file_digest, is_built, read_manifest
from pyeqgan.data.images import check_image_size
from pyeqgan.errors import UserError
from pyeqgan.files import locked, write_whole, writing
from pyeqgan.options.data_build import DataBuildOptions
from pyeqgan.telling import Progress, Report

PLAN = "plan.sha256"
SPARE = 2**26  # bytes of disk to leave free
MADE = "box or whole image; EXIF orientation unless boxed; transparency over white; central square; Lanczos"


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
            _check_disk(work, plan, options.image_size)
            _begin(work, plan, options.force)
        except BaseException:
            if _begun(work) is None:
                shutil.rmtree(work)
            raise
        if not is_built(work):
            lines = write_images(work, plan, options, report, progress)
            _finish(work, plan, lines, options)
        _publish(work, output)
    _tell(read_manifest(output), options, report)


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


def _amount(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
