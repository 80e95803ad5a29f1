"""Images are written one after the other, each with a line that describes it: what is written needs no more than these.

`sources.jsonl` gets a line for every file once its pixels are in `images.npy`. Killed at any instant, the build goes on
after the last line that is whole and whose pixels are those it tells of.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import zlib
from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pyeqgan.data.ahead import ahead
from pyeqgan.data.building.lists import Candidate
from pyeqgan.data.building.plan import Plan, PlannedClass
from pyeqgan.data.built import IMAGES, SOURCES
from pyeqgan.data.folders import decode_image
from pyeqgan.data.images import Pixels
from pyeqgan.errors import UserError
from pyeqgan.files import writing
from pyeqgan.options.data_build import DataBuildOptions
from pyeqgan.telling import Progress, Report

HEADER = 128  # bytes left for the header of a .npy file, which NumPy makes a multiple of 64


class Outcome(NamedTuple):
    """What became of a file: its pixels and the line that describes them, or the line that says why there are none."""

    line: dict[str, Any]
    pixels: Pixels | None


def write_images(
    work: Path, plan: Plan, options: DataBuildOptions, report: Report, progress: Progress | None
) -> list[dict[str, Any]]:
    """Write the images and a line for each file, behind those that are there; returns all lines.

    Raises UserError: an image cannot be read and is not to be skipped, or the disk is full.
    """
    size = options.image_size
    image_bytes = 3 * size**2
    with writing(work), open(work / IMAGES, "ab+") as images, open(work / SOURCES, "ab+") as journal:
        lines = _good_prefix(images, journal, image_bytes)
        done = sum("crc32" in line for line in lines)
        if done:
            report(f"going on after {done} of {plan.count} images")
        with closing(_outcomes(plan, list(lines), size, options.workers)) as outcomes:
            for outcome in outcomes:
                if outcome.pixels is None and not options.skip_corrupt:
                    raise UserError(f"{outcome.line['error']}; --skip-corrupt leaves it out")
                if outcome.pixels is not None:
                    images.write(outcome.pixels.data)
                    images.flush()
                    done += 1
                    if progress is not None:
                        progress("building", done, plan.count)
                journal.write(json.dumps(outcome.line).encode() + b"\n")
                journal.flush()
                lines.append(outcome.line)
    return lines


def _outcomes(plan: Plan, lines: Sequence[dict[str, Any]], size: int, workers: int) -> Generator[Outcome, None, None]:
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
            missing = planned.wanted - processed[planned.name][1]
            spares = map(make, ((planned, candidate) for candidate in spare[planned.name]))
            outcomes = itertools.chain(itertools.islice(stream, len(first[planned.name])), spares)
            while missing and (outcome := next(outcomes, None)):
                missing -= outcome.pixels is not None
                yield outcome


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
