"""A trained ECGAN: images and edges of label maps, and its evaluation on the layouts of a test half."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pyeqgan.data import to_uint8
from pyeqgan.data.images import Pixels
from pyeqgan.data.layouts import (
    Coding,
    LayoutSplit,
    coloured,
    instance_edges,
    open_layouts,
    read_instances,
    read_labels,
)
from pyeqgan.errors import UserError
from pyeqgan.evaluation.layouts import LayoutProtocol, SegmenterConfig, evaluate_layouts, write_page
from pyeqgan.files import write_whole, writing
from pyeqgan.models import ECGANConfig, ECGANGenerator
from pyeqgan.options import EvaluateOptions, GenerateOptions
from pyeqgan.telling import Progress, Report
from pyeqgan.trained.checkpoint import check_model, refuse, subject
from pyeqgan.training.checkpoint import Checkpoint
from pyeqgan.training.pictures import image_grid, png
from pyeqgan.training.run_folder import CURVES

GRID = "grid"
MOST_IN_GRID = 8
OF_EQGAN = ("images", "count", "shots", "weights", "seed")
EVALUATION_OF_EQGAN = (
    "seen_classes",
    "fakes_per_class",
    "references_per_class",
    "shots",
    "compat",
    "downstream",
)


def generate(checkpoint: Checkpoint, options: GenerateOptions, device: str, report: Report) -> None:
    """Write `NAME.png` and `NAME_edges.png` of every layout, and a grid of the first ones: layouts, edges, images.

    Layouts are read as those of the training were: the middle, resized to the generator's size, and values that mean
    what they meant there.

    Args:
        checkpoint: with its part "ema".
        options: of the command.
        device: where to compute.
        report: called with a line for each thing worth knowing.

    Raises:
        UserError: it is of another model, a layout cannot be read or two have one name, an option is of another
            model, or a file is there already and `options.force` is not set, or cannot be written.
    """
    generator = averaged_generator(checkpoint)
    refuse(options, OF_EQGAN, "ecgan")
    config, coding = generator.config, Coding(**checkpoint.about["coding"])
    files = _files(options.layouts)
    size = (config.image_height, config.image_width)
    # All are read before one is painted, so that a wrong one is told at once.
    labels = np.stack([read_labels(str(path), coding, size).astype(np.int16) for path in files])
    instances = _files(options.instances)
    outlines = _outlines(files, instances, config)
    places = _places(files, [*files, *instances], options)
    generator.to(device)
    shown: dict[str, list[Pixels]] = {}
    for start in range(0, len(files), options.batch_size):
        part = slice(start, start + options.batch_size)
        layouts = torch.from_numpy(labels[part].astype(np.int64))
        output = generator.generate(layouts, None if outlines is None else outlines[part], batch_size=len(layouts))
        pictures = {name: list(to_uint8(maps)) for name, maps in output.modalities.items()}
        for index, (image, edges) in enumerate(places[part]):
            write_whole(image, png(Image.fromarray(pictures["refined" if "refined" in pictures else "images"][index])))
            if "edges" in pictures:
                write_whole(edges, png(Image.fromarray(pictures["edges"][index])))
        for name, images in pictures.items():
            shown[name] = [*shown.get(name, []), *images][:MOST_IN_GRID]
    rows = [list(coloured(labels[:MOST_IN_GRID].astype(np.int64))), *shown.values()]
    write_whole(options.output / f"{GRID}.png", png(image_grid(rows)))
    report(f"images and edges of {len(files)} layouts and {GRID}.png in {options.output}")


def evaluate(
    checkpoint: Checkpoint,
    options: EvaluateOptions,
    device: str,
    report: Report,
    progress: Progress | None = None,
) -> None:
    """Evaluate the generator on the test half of a data set; see `evaluate_layouts` for what is written.

    Args:
        checkpoint: with its part "ema".
        options: of the command.
        device: where to compute.
        report: called with a line for each thing worth knowing.
        progress: told what is being done.

    Raises:
        UserError: it is of another model, an option is, the data cannot be read or do not fit, or the folder cannot
            be written.
    """
    generator = averaged_generator(checkpoint)
    refuse(options, EVALUATION_OF_EQGAN, "ecgan")
    generator.to(device)

    split, wanted = data_of(checkpoint, options.data), generator.config.instance_edges
    if wanted and not split.test.has_instances:
        raise UserError(f"{checkpoint.path} was trained with --instance-edges; these layouts have no instance maps")

    report(f"evaluating {checkpoint.path}")

    def paint(labels: Tensor, outlines: Tensor | None) -> tuple[Tensor | None, Tensor, Tensor | None]:
        output = generator.generate(labels, outlines if wanted else None)
        return output.edges, output.images, output.refined

    result = evaluate_layouts(
        paint,
        split,
        LayoutProtocol(
            repeats=options.repeats or 1,
            inception=options.features == "inception",
            lpips=options.lpips,
            seed=options.seed,
            segmenter_training=SegmenterConfig(steps=options.feature_steps or SegmenterConfig.steps),
        ),
        output=options.output,
        weights=options.weights,
        device=device,
        progress=progress,
        force=options.force,
        subject=subject(checkpoint),
    )
    losses = options.checkpoint / CURVES
    page = write_page(options.output, result, pictures={"Losses of the training": losses} if losses.exists() else {})
    report(result.verdict())
    report(f"numbers and pictures: {page}")


def averaged_generator(checkpoint: Checkpoint) -> ECGANGenerator:
    """The generator of a checkpoint's part "ema", on the CPU in eval mode; UserError if it is of another model."""
    check_model(checkpoint, "ecgan")
    generator = ECGANGenerator(ECGANConfig.from_dict(checkpoint.about["model"]))
    generator.load_state_dict(checkpoint.parts["ema"])
    return generator.eval()


def data_of(checkpoint: Checkpoint, data: str | None = None) -> LayoutSplit:
    """The layouts to look at a generator with, by default those of its run.

    Raises:
        UserError: they cannot be read, or have other classes than the run's.
    """
    run = checkpoint.about["options"]
    split = open_layouts(
        data or run["data"],
        image_size=(run["image_height"], run["image_width"]),
        num_classes=run["num_classes"],
        ignore_index=run["ignore_index"],
    )
    if list(split.test.class_names) != checkpoint.about["classes"]:
        names = ", ".join(checkpoint.about["classes"])
        raise UserError(f"the layouts of {data or run['data']} have other classes than those trained on: {names}")
    return split


def _files(given: Sequence[Path]) -> list[Path]:
    """The files that are named, and of a folder all PNGs in it."""
    found: list[Path] = []
    for path in given:
        inside = sorted(path.glob("*.png")) if path.is_dir() else [path]
        if not inside:
            raise UserError(f"no label maps in {path}: expected PNGs")
        found += inside
    return found


def _outlines(files: Sequence[Path], instances: Sequence[Path], config: ECGANConfig) -> Tensor | None:
    if not config.instance_edges:
        if instances:
            raise UserError("--instances: this generator was trained without the borders between instances")
        return None
    if len(instances) != len(files):
        raise UserError(f"--instances: expected a map for each of the {len(files)} layouts, got {len(instances)}")
    size = (config.image_height, config.image_width)
    return torch.from_numpy(instance_edges(np.stack([read_instances(str(path), size) for path in instances]))[:, None])


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
    if there and not options.force:
        raise UserError(f"{output} already holds {there[0].name}: --force replaces what would be written there")
    return [(output / f"{path.stem}.png", output / f"{path.stem}_edges.png") for path in files]
