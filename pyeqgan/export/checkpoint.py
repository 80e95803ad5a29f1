"""A trained generator as a folder to give away."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import torch

from pyeqgan.errors import UserError
from pyeqgan.evaluation.folder import METRICS
from pyeqgan.export import ecgan, eqgan
from pyeqgan.export.onnx import export_onnx
from pyeqgan.export.program import export_program, output_names
from pyeqgan.files import new_folder
from pyeqgan.models import ECGANGenerator, EqGANGenerator, model_card
from pyeqgan.models.pretrained import FILES, write_about
from pyeqgan.options import ExportOptions
from pyeqgan.telling import Report
from pyeqgan.trained import averaged_generator
from pyeqgan.trained.checkpoint import model_of, refuse_others
from pyeqgan.training.checkpoint import Checkpoint, load_latest

PROGRAM, ONNX = "model.pt2", "model.onnx"
OURS = (*FILES, PROGRAM, ONNX)

PROGRAM_CALL = """program = torch.export.load("model.pt2").module()
{outputs} = program(*map(torch.from_numpy, inputs.values()))"""

ONNX_CALL = """session = onnxruntime.InferenceSession("model.onnx")
{outputs} = session.run({names}, inputs)"""


def export(options: ExportOptions, report: Report) -> None:
    """Write the averaged generator of a checkpoint, its configuration and a card to `options.output`.

    Args:
        options: of the command.
        report: called with a line for each thing worth knowing.

    Raises:
        UserError: the checkpoint or the evaluation cannot be read, an option is not of its model, a package is missing,
            or the folder holds something or cannot be written. It is written whole or not at all.
    """
    checkpoint = load_latest(options.checkpoint, report, ["ema"])
    generator = averaged_generator(checkpoint)
    refuse_others(options, model_of(checkpoint))
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
    generator: EqGANGenerator | ECGANGenerator,
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


def _usage(generator: EqGANGenerator | ECGANGenerator, options: ExportOptions) -> str:
    """How the program or the ONNX model is run."""
    onnx, names = options.format == "onnx", output_names(generator)
    outputs = (
        ", ".join(names) if len(names) > 1 or not onnx else f"({names[0]},)"
    )  # the runtime returns a list, torch one tensor
    call = (ONNX_CALL if onnx else PROGRAM_CALL).format(outputs=outputs, names=json.dumps(names))
    runtime = "onnxruntime" if onnx else "torch"
    if isinstance(generator, ECGANGenerator):
        return ecgan.usage(generator, runtime, call)
    return eqgan.usage(generator, options.shots, runtime, call)


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
