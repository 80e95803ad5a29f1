"""Which device a command computes on, and whether it repeats itself there.

It imports nothing of Lightning, which takes a second.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def deterministic_algorithms(wanted: bool) -> Iterator[None]:
    """Within: torch takes deterministic algorithms alone, if they are wanted, and raises where it has none."""
    before = torch.are_deterministic_algorithms_enabled()
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS needs, or torch refuses its products
        torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
