"""A trained generator as a folder to give away."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import torch

from pyeqgan.errors import UserError
from pyeqgan.evaluation.folder import METRICS
from pyeqgan.export.onnx import export_onnx
from pyeqgan.export.program import export_program, input_names
from pyeqgan.models import EqGANGenerator, model_card
from pyeqgan.models.new_folder import new_folder
from pyeqgan.models.pretrained import FILES, write_about
from pyeqgan.options import ExportOptions
from pyeqgan.trained import averaged_generator
from pyeqgan.training.checkpoint import Checkpoint, Report, load_latest

PROGRAM, ONNX = "model.pt2", "model.onnx"
OURS = (*FILES, PROGRAM, ONNX)

PROGRAM_USAGE = """```python
import torch  # pyeqgan is not needed

program = torch.export.load("{file}").module()
image = program({names})
```"""

ONNX_USAGE = """```python
import onnxruntime

session = onnxruntime.InferenceSession("{file}")
(image,) = session.run(["image"], {{{feed}}})
```"""

INPUTS = """`images` (B,K,3,{size},{size}), float32 in [-1, 1]: K images of one class in each row; K is {shots}, B any.
`weights` (B,K), float32: the share of each image, rows that sum to 1. `base` (B,), int64: the image whose layout is
kept.{positions} The random choices are inputs: draw weights and base uniformly. `image` is (B,3,{size},{size}) in
[-1, 1]."""

POSITIONS = """ `positions_s` (B,M), int64, for each grid of s² positions: those that are fused, distinct in each row,
drawn uniformly from [0, s²); {grids}."""


def export(options: ExportOptions, report: Report) -> None:
    """Write the averaged generator of a checkpoint, its configuration and a card to `options.output`.

    Args:
        options: of the command.
        report: called with a line for each thing worth knowing.

    Raises:
        UserError: the checkpoint or the evaluation cannot be read, a package is missing, or the folder holds something
            or cannot be written. It is written whole or not at all.
    """
    checkpoint = load_latest(options.checkpoint, report, ["ema"])
    generator = averaged_generator(checkpoint)
    evaluation = _evaluation(options)
    usage = None if options.format == "hub" else _usage(generator, options)
    card = _card(checkpoint, generator, options, usage, evaluation)
    with new_folder(options.output, OURS if options.force else ()) as folder:
        if options.format == "hub":
            generator.write_pretrained(folder, card=card)
        else:
            write_about(folder, type(generator).__name__, generator.config.to_dict(), card)
            if options.format == "onnx":
                export_onnx(generator, folder / ONNX, shots=options.shots)
            else:
                program = io.BytesIO()  # which torch cannot fill up, as it can a disk, with an error of its own
                torch.export.save(export_program(generator, shots=options.shots), program)
                (folder / PROGRAM).write_bytes(program.getvalue())
    report(f"{checkpoint.path} as {options.format} in {options.output}")
    if evaluation is None:
        report("the card tells of no evaluation: pyeqgan evaluate makes one, --evaluation names its folder")
    if options.license is None:
        report("the card states no license: --license names the one you choose")


def _card(
    checkpoint: Checkpoint,
    generator: EqGANGenerator,
    options: ExportOptions,
    usage: str | None,
    evaluation: dict[str, Any] | None,
) -> str:
    return model_card(
        type(generator).__name__,
        generator.config.to_dict(),
        usage=usage,
        run={"step": checkpoint.step, **checkpoint.about},
        evaluation=evaluation,
        license=options.license,
    )


def _usage(generator: EqGANGenerator, options: ExportOptions) -> str:
    """How the program or the ONNX model is run, and what its inputs mean."""
    names = input_names(generator)
    if options.format == "onnx":
        example = ONNX_USAGE.format(file=ONNX, feed=", ".join(f'"{name}": {name}' for name in names))
    else:
        example = PROGRAM_USAGE.format(file=PROGRAM, names=", ".join(names))
    counts = {side: p.shape[1] for side, p in generator.sample_plan(1, 1).positions.items()}
    grids = ", ".join(f"M is {count} for s = {side}" for side, count in counts.items())
    inputs = INPUTS.format(
        size=generator.config.image_size,
        shots=options.shots or "any from 3",
        positions=POSITIONS.format(grids=grids) if grids else "",
    )
    return f"{example}\n\n{inputs}"


def _evaluation(options: ExportOptions) -> dict[str, Any] | None:
    """The numbers of the evaluation that was named, or of the one in the run's folder, if there is one."""
    folder = options.evaluation or options.checkpoint / "evaluation"
    file: Path = folder / METRICS
    try:
        numbers: dict[str, Any] = json.loads(file.read_bytes())
        numbers["note"], numbers["scores"]
    except (FileNotFoundError, NotADirectoryError) as error:
        if options.evaluation is None:
            return None
        raise UserError(f"no evaluation in {folder}: expected a folder with {METRICS}") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is not an evaluation of pyeqgan") from error
    return numbers
