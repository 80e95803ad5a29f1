"""Generate images of the class that some picture files show, with a trained generator."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from PIL import Image

from pyeqgan.data import to_tensor, to_uint8
from pyeqgan.data.folders import read_image
from pyeqgan.errors import UserError
from pyeqgan.models import EqGANConfig, EqGANGenerator
from pyeqgan.options import GenerateOptions
from pyeqgan.training.checkpoint import Report, load_latest, writing
from pyeqgan.training.engine import resolve_device
from pyeqgan.training.pictures import Pixels, above, image_grid, in_rows, square_columns

OURS = re.compile(r"generated_\d{3,}\.png|grid\.png")


def generate(options: GenerateOptions, report: Report) -> None:
    """Write `options.count` images and a grid of them, the given images in its first row.

    The images are read as a folder of classes is: the central square, resized to the generator's size.

    Args:
        options: of the command.
        report: called with a line for each thing worth knowing.

    Raises:
        UserError: the checkpoint or an image cannot be read, or the output folder not be written, or it holds
            pictures of an earlier call and `options.force` is not set.
    """
    device = resolve_device(options.device)
    generator = load_generator(options.checkpoint, report).to(device)
    references = np.stack([read_image(path, generator.config.image_size) for path in options.images])
    shots = options.shots or min(generator.config.shots, len(references))
    if shots != generator.config.shots:
        report(f"each image fuses {shots} of those given, in training it was {generator.config.shots}")
    _make_room(options.output, options.force)
    images = generator.generate(
        to_tensor(references), options.count, shots=shots, seed=options.seed, batch_size=options.batch_size
    )
    _write(options.output, list(references), list(to_uint8(images)))
    report(f"{options.count} images and grid.png in {options.output}")


def load_generator(checkpoint: Path, report: Report) -> EqGANGenerator:
    """The averaged generator of a run's last good checkpoint, or of one checkpoint, on the CPU in eval mode.

    Args:
        checkpoint: folder of a run or of a checkpoint.
        report: called with a line for each damaged checkpoint that is passed over.

    Raises:
        UserError: there is no checkpoint, or none that is whole.
    """
    found = load_latest(checkpoint, report, ["ema"])
    generator = EqGANGenerator(EqGANConfig.from_dict(found.about["model"]))
    generator.load_state_dict(found.parts["ema"])
    return generator.eval()


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
    with writing(output):
        for index, image in enumerate(images):
            Image.fromarray(image).save(output / f"generated_{index:0{digits}d}.png")
        above(image_grid([references]), image_grid(in_rows(images, columns))).save(output / "grid.png")
