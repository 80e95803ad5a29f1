"""A trained EqGAN: images of the class that some files show, and its evaluation on unseen classes."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pyeqgan.data import Split, open_data, to_tensor, to_uint8
from pyeqgan.data.folders import read_image
from pyeqgan.errors import UserError
from pyeqgan.evaluation import FeatureConfig, Protocol, evaluate_generator, write_page
from pyeqgan.files import write_whole, writing
from pyeqgan.models import EqGANConfig, EqGANGenerator
from pyeqgan.options import EvaluateOptions, GenerateOptions
from pyeqgan.telling import Progress, Report
from pyeqgan.trained.checkpoint import check_model, subject
from pyeqgan.training.checkpoint import Checkpoint
from pyeqgan.training.pictures import Pixels, above, image_grid, in_rows, png, square_columns
from pyeqgan.training.run_folder import CURVES

OURS = re.compile(r"generated_\d{3,}\.png|grid\.png")


def generate(
    checkpoint: Checkpoint,
    options: GenerateOptions,
    device: str,
    report: Report,
    progress: Progress | None = None,
) -> None:
    """Write `options.count` images and a grid of them, the given images in its first row.

    The images are read as a folder of classes is: the central square, resized to the generator's size.

    Args:
        checkpoint: with its part "ema".
        options: of the command.
        device: where to compute.
        report: called with a line for each thing worth knowing.
        progress: told nothing: it does not take long.

    Raises:
        UserError: it is of another model, an option is, an image cannot be read, or the output folder not be written,
            or it holds pictures of an earlier call and `options.force` is not set.
    """
    generator = averaged_generator(checkpoint).to(device)
    references = np.stack([read_image(path, generator.config.image_size) for path in options.images])
    shots = options.shots or min(generator.config.shots, len(references))
    if shots != generator.config.shots:
        report(f"each image fuses {shots} of those given, in training it was {generator.config.shots}")
    _make_room(options.output, options.force)
    images = generator.generate(
        to_tensor(references),
        options.count,
        shots=shots,
        weights=options.weights or None,
        seed=options.seed,
        batch_size=options.batch_size,
    )
    _write(options.output, list(references), list(to_uint8(images)))
    report(f"{options.count} images and grid.png in {options.output}")


def evaluate(
    checkpoint: Checkpoint,
    options: EvaluateOptions,
    device: str,
    report: Report,
    progress: Progress | None = None,
) -> None:
    """Evaluate the generator on the unseen classes of a data set; see `evaluate_generator` for what is written.

    Args:
        checkpoint: with its part "ema".
        options: of the command.
        device: where to compute.
        report: called with a line for each thing worth knowing.
        progress: told what is being done.

    Raises:
        UserError: the data cannot be read or do not fit, or the folder cannot be written.
    """
    generator = averaged_generator(checkpoint).to(device)
    shots = options.shots or generator.config.shots
    report(f"evaluating {checkpoint.path}")

    def generate(references: Tensor, count: int, rng: torch.Generator) -> Tensor:
        return generator.generate(references, count, shots=shots, generator=rng)

    result = evaluate_generator(
        generate,
        data_of(checkpoint, options.data, options.seen_classes),
        Protocol(
            shots,
            options.fakes_per_class,
            options.references_per_class,
            features=options.features,
            lpips=options.lpips,
            compat=options.compat,
            repeats=options.repeats,
            downstream=options.downstream,
            seed=options.seed,
            feature_training=FeatureConfig(steps=options.feature_steps or FeatureConfig.steps, seed=options.seed),
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
    fewest = min(images["references"] for images in result.classes.values())
    if fewest < options.references_per_class:
        report(f"small classes leave as few as {fewest} references, not {options.references_per_class}")
    report(result.verdict())
    report(f"numbers and pictures: {page}")


def averaged_generator(checkpoint: Checkpoint) -> EqGANGenerator:
    """The generator of a checkpoint's part "ema", on the CPU in eval mode; UserError if it is of another model."""
    check_model(checkpoint, "eqgan")
    generator = EqGANGenerator(EqGANConfig.from_dict(checkpoint.about["model"]))
    generator.load_state_dict(checkpoint.parts["ema"])
    return generator.eval()


def data_of(checkpoint: Checkpoint, data: str | None = None, seen_classes: int | None = None) -> Split:
    """The data to look at a generator with: by default that of its run, split as it was.

    Raises:
        UserError: they cannot be read, or the run was trained on a class that would be unseen.
    """
    run, trained = checkpoint.about["options"], checkpoint.about["classes"]
    data = data or run["data"]
    same = data == run["data"] or str(Path(data).resolve()) == run["data"]
    seen = seen_classes or (run["seen_classes"] if same else None)
    split = open_data(data, image_size=run["image_size"], seen_classes=seen)
    leaked = sorted(set(split.unseen.class_names) & set(trained))
    if same and leaked:
        raise UserError(f"{len(leaked)} classes to evaluate on were trained on, {leaked[0]!r} among them")
    return split


def _make_room(output: Path, force: bool) -> None:
    with writing(output):
        output.mkdir(parents=True, exist_ok=True)
        earlier = sorted(path for path in output.iterdir() if OURS.fullmatch(path.name))
        if earlier and not force:
            raise UserError(f"{output} already holds {earlier[0].name}: --force replaces what generate wrote there")
        for path in earlier:
            path.unlink()


def _write(output: Path, references: list[Pixels], images: list[Pixels]) -> None:
    digits = max(3, len(str(len(images) - 1)))
    columns = max(len(references), square_columns(len(images)))
    for index, image in enumerate(images):
        write_whole(output / f"generated_{index:0{digits}d}.png", png(Image.fromarray(image)))
    write_whole(output / "grid.png", png(above(image_grid([references]), image_grid(in_rows(images, columns)))))
