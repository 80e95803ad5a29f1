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
from pyeqgan.export.program import LEAST_DYNAMIC_SHOTS, export_program
from pyeqgan.files import new_folder
from pyeqgan.models import EqGANGenerator, model_card
from pyeqgan.models.pretrained import FILES, write_about
from pyeqgan.options import ExportOptions
from pyeqgan.telling import Report
from pyeqgan.trained.eqgan import averaged_generator
from pyeqgan.training.checkpoint import Checkpoint, load_latest

PROGRAM, ONNX = "model.pt2", "model.onnx"
OURS = (*FILES, PROGRAM, ONNX)

USAGE = """Neither pyeqgan nor anything of it is needed. What the generator draws by chance is an input:

```python
import numpy as np
import {runtime}

rng, B, K = np.random.default_rng(0), 4, {shots}
images = np.zeros((B, K, 3, {size}, {size}), np.float32)  # yours, in [-1, 1]: K images of one class in each row
shares = 1 - rng.random((B, K))
inputs = {{
    "images": images,
    "weights": (shares / shares.sum(1, keepdims=True)).astype(np.float32),  # of each image
    "base": rng.integers(K, size=B),  # the image whose layout is kept
}}
for side, count in {grids}.items():  # how many positions of a grid are fused, and which
    inputs[f"positions_{{side}}"] = rng.random((B, side * side)).argsort(1)[:, :count]

{call}  # (B,3,{size},{size}) in [-1, 1]
```

B is free{free}."""

PROGRAM_CALL = """program = torch.export.load("model.pt2").module()
image = program(*map(torch.from_numpy, inputs.values()))"""

ONNX_CALL = """session = onnxruntime.InferenceSession("model.onnx")
(image,) = session.run(["image"], inputs)"""


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
    """How the program or the ONNX model is run."""
    return USAGE.format(
        runtime="onnxruntime" if options.format == "onnx" else "torch",
        call=ONNX_CALL if options.format == "onnx" else PROGRAM_CALL,
        shots=options.shots or max(generator.config.shots, LEAST_DYNAMIC_SHOTS),
        size=generator.config.image_size,
        grids={side: positions.shape[1] for side, positions in generator.sample_plan(1, 1).positions.items()},
        free="" if options.shots else f", and K from {LEAST_DYNAMIC_SHOTS} on",
    )


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
