"""What a checkpoint tells of itself: which model it is of, and what an evaluation of it is an evaluation of."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

from pyeqgan.errors import UserError
from pyeqgan.options import flag
from pyeqgan.options.fields import fields_of_others
from pyeqgan.options.train import CHANGEABLE
from pyeqgan.training.checkpoint import Checkpoint


def model_of(checkpoint: Checkpoint) -> str:
    """Its `--model`; the first checkpoints named none, being of EqGANs."""
    return str(checkpoint.about["options"].get("model", "eqgan"))


def check_model(checkpoint: Checkpoint, model: str) -> None:
    """UserError unless it is of this model."""
    if model_of(checkpoint) != model:
        other = f"{checkpoint.path} is of {model_of(checkpoint)}"
        raise UserError(f"this command expects a checkpoint of --model {model}; {other}")


def refuse_others(options: Any, model: str) -> None:
    """UserError if a field of a command's options that another model alone knows is not its default."""
    others = fields_of_others(type(options), model)
    for field in dataclasses.fields(options):
        if field.name in others and getattr(options, field.name) != field.default:
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
