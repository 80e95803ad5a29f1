"""Label maps painted to files: what is read, where it goes, and how a call that was stopped goes on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from pyeqgan.data import to_uint8
from pyeqgan.data.images import Pixels
from pyeqgan.data.layouts import Coding, coloured, instance_edges, read_instances, read_labels
from pyeqgan.errors import UserError
from pyeqgan.files import write_whole, writing
from pyeqgan.models import ECGANConfig, ECGANGenerator
from pyeqgan.options import GenerateOptions
from pyeqgan.telling import Progress, Report
from pyeqgan.training.pictures import image_grid, png

GRID = "grid"
MOST_IN_GRID = 8
FINAL = "final"
SOURCE = "Source"  # PNG's own name for what a picture was made from


@dataclass(frozen=True)
class _Painting:
    """A layout and its pictures.

    Attributes:
        labels: (H,W) int16.
        outlines: float32 (1,H,W), where the generator takes instance edges.
        image: the file of the image.
        edges: that of its edges.
        source: what both are made from: the weights and the layout.
    """

    labels: NDArray[np.int16]
    outlines: NDArray[np.float32] | None
    image: Path
    edges: Path
    source: str


def paint(
    generator: ECGANGenerator,
    coding: Coding,
    weights: str,
    options: GenerateOptions,
    report: Report,
    progress: Progress | None = None,
) -> None:
    """Write `NAME.png` and `NAME_edges.png` of every layout, and a grid of the first ones: layouts, edges, images.

    Layouts are read as those of the training were: the middle, resized to the generator's size, and values that mean
    what they meant there. A picture is written whole and tells what it was made from, so that `options.resume` can
    make those that are missing; the grid comes last.

    Args:
        generator: on the device to compute on.
        coding: what the values of label maps mean.
        weights: a digest of the generator's.
        options: of the command.
        report: called with a line at the end.
        progress: told what is being done.

    Raises:
        UserError: a layout cannot be read or two have one name; a picture is there already and neither
            `options.force` nor `options.resume` is set, or was made from something else; or cannot be written.
    """
    tell = progress or (lambda what, done, total: None)
    has_edges = generator.config.contains("edge")
    paintings = _read(generator.config, coding, weights, options, tell)
    kept = [options.resume and _is_there(painting, has_edges) for painting in paintings]
    # The first ones are for the grid, too.
    wanted = [number for number in range(len(paintings)) if number < MOST_IN_GRID or not kept[number]]
    shown: dict[str, list[Pixels]] = {}
    for start in range(0, len(wanted), options.batch_size):
        tell("painting", start, len(wanted))
        part = wanted[start : start + options.batch_size]
        pictures = _pictures(generator, [paintings[number] for number in part])
        for number, image, edges in zip(part, pictures[FINAL], pictures.get("edges", pictures[FINAL]), strict=True):
            painting, about = paintings[number], {SOURCE: paintings[number].source}
            if not kept[number]:
                write_whole(painting.image, png(Image.fromarray(image), about))
                if has_edges:
                    write_whole(painting.edges, png(Image.fromarray(edges), about))
        for name, made in pictures.items():
            shown[name] = [*shown.get(name, []), *made][:MOST_IN_GRID]
    tell("painting", len(wanted), len(wanted))
    first = np.stack([painting.labels for painting in paintings[:MOST_IN_GRID]]).astype(np.int64)
    write_whole(options.output / f"{GRID}.png", png(image_grid([list(coloured(first)), *shown.values()])))
    before = f" ({sum(kept)} of them were there)" if any(kept) else ""
    what = "images and edges" if has_edges else "images"
    report(f"{what} of {len(paintings)} layouts{before} and {GRID}.png in {options.output}")


def _pictures(generator: ECGANGenerator, paintings: Sequence[_Painting]) -> dict[str, list[Pixels]]:
    """What the generator makes of some layouts, by the name of the modality; the last one is `FINAL`."""
    labels = torch.from_numpy(np.stack([painting.labels for painting in paintings]).astype(np.int64))
    given = [painting.outlines for painting in paintings if painting.outlines is not None]
    outlines = torch.from_numpy(np.stack(given)) if given else None
    modalities = generator.generate(labels, outlines, batch_size=len(labels)).modalities
    made = {name: list(to_uint8(maps)) for name, maps in modalities.items()}
    *others, last = made
    return {name: made[name] for name in others} | {FINAL: made[last]}


def _read(
    config: ECGANConfig, coding: Coding, weights: str, options: GenerateOptions, tell: Progress
) -> list[_Painting]:
    """All layouts, before one is painted, so that a wrong one is told at once."""
    files, instances = _files(options.layouts), _files(options.instances)
    if instances and not config.instance_edges:
        raise UserError("--instances: this generator was trained without the borders between instances")
    if config.instance_edges and len(instances) != len(files):
        raise UserError(f"--instances: expected a map for each of the {len(files)} layouts, got {len(instances)}")
    size = (config.image_height, config.image_width)
    labels: list[NDArray[np.int16]] = []
    outlines: list[NDArray[np.float32] | None] = [None] * len(files)
    for number, file in enumerate(files):
        tell("reading layouts", number, len(files))
        labels.append(read_labels(str(file), coding, size).astype(np.int16))
        if instances:
            outlines[number] = instance_edges(read_instances(str(instances[number]), size))[None]
    tell("reading layouts", len(files), len(files))
    places = _places(files, [*files, *instances], options)
    return [
        _Painting(of_file, borders, *place, source=_source(weights, of_file, borders))
        for of_file, borders, place in zip(labels, outlines, places, strict=True)
    ]


def _source(weights: str, labels: NDArray[np.int16], outlines: NDArray[np.float32] | None) -> str:
    layout = hashlib.sha256(labels.tobytes() + (b"" if outlines is None else outlines.tobytes()))
    return f"pyeqgan: weights {weights}, layout {layout.hexdigest()[:16]}"


def _files(given: Sequence[Path]) -> list[Path]:
    """The files that are named, and of a folder all PNGs in it."""
    found: list[Path] = []
    for path in given:
        inside = sorted(path.glob("*.png")) if path.is_dir() else [path]
        if not inside:
            raise UserError(f"no label maps in {path}: expected PNGs")
        found += inside
    return found


def _places(files: Sequence[Path], read: Sequence[Path], options: GenerateOptions) -> list[tuple[Path, Path]]:
    """Where image and edges of each layout go: no two to one file, none over a file that was read, and no file of
    before is lost unless asked for."""
    names = [GRID, *(f"{path.stem}{kind}" for path in files for kind in ("", "_edges"))]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"two pictures would be called {twice[0]}.png: rename a layout")
    output = options.output
    targets = [output / f"{name}.png" for name in names]
    given = {path.resolve() for path in read}
    lost = [path for path in targets if path.resolve() in given]
    if lost:
        raise UserError(f"{lost[0]} is a label map that is read: --output must be another folder")
    with writing(output):
        output.mkdir(parents=True, exist_ok=True)
    there = [path for path in targets if path.exists()]
    if there and not (options.force or options.resume):
        which = "--resume makes the missing ones, --force all anew"
        raise UserError(f"{output} already holds {there[0].name}: {which}")
    return [(output / f"{path.stem}.png", output / f"{path.stem}_edges.png") for path in files]


def _is_there(painting: _Painting, has_edges: bool) -> bool:
    """Whether all pictures of a layout are there; UserError if one was made from something else."""
    there = [path for path in (painting.image, painting.edges)[: 1 + has_edges] if path.exists()]
    for path in there:
        try:
            with Image.open(path) as picture:
                source = picture.info.get(SOURCE)
        except OSError as error:
            raise UserError(f"cannot read {path}: {error}") from error
        if source != painting.source:
            raise UserError(f"{path} was not made from this layout by this generator: --force makes it anew")
    return len(there) == 1 + has_edges
