"""Which device a command computes on. It imports nothing of Lightning, which takes a second."""

from __future__ import annotations

from typing import Literal

import torch

from pyeqgan.errors import UserError
from pyeqgan.options import Device


def resolve_device(device: Device) -> Literal["cpu", "cuda"]:
    """The device that is meant; UserError if there is none such."""
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise UserError("--device cuda: torch sees no CUDA device here, expected cpu or auto")
    return "cuda" if device != "cpu" and available else "cpu"
