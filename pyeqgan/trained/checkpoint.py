"""What a checkpoint tells of itself: which model it is of, and what an evaluation of it is an evaluation of."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from typing import Any

from pyeqgan.errors import UserError
from pyeqgan.options import flag
from pyeqgan.options.train import CHANGEABLE
from pyeqgan.training.checkpoint import Checkpoint


def model_of(checkpoint: Checkpoint) -> str:
    """Its `--model`; the first checkpoints named none, being of EqGANs."""
    return str(checkpoint.about["options"].get("model", "eqgan"))


def check_model(checkpoint: Checkpoint, model: str, *what: str) -> None:
    """UserError unless it is of this model, which alone knows what is asked for."""
    if model_of(checkpoint) != model:
        asked = " ".join(what) or "this command"
        raise UserError(
            f"{asked} expects a checkpoint of --model {model}; {checkpoint.path} is of {model_of(checkpoint)}"
        )


def refuse(options: Any, names: Sequence[str], model: str) -> None:
    """UserError if one of these fields of a command's options is not its default, which this model knows nothing of."""
    for field in dataclasses.fields(options):
        if field.name in names and getattr(options, field.name) != field.default:
            raise UserError(f"{flag(field.name)} does not apply to a checkpoint of --model {model}")


def subject(checkpoint: Checkpoint) -> dict[str, str | int]:
    """What an evaluation is of: the run, by its configuration, the step, and the averaged generator's weights."""
    about = checkpoint.about
    configuration = {name: value for name, value in about["options"].items() if name not in CHANGEABLE}
    run = hashlib.sha256(json.dumps([configuration, about["classes"]], sort_keys=True).encode())
    total = hashlib.sha256()
    for name, tensor in sorted(checkpoint.parts["ema"].items()):
        total.update(name.encode() + tensor.contiguous().cpu().numpy().tobytes())
    return {"run": run.hexdigest()[:16], "step": checkpoint.step, "weights": total.hexdigest()[:16]}
