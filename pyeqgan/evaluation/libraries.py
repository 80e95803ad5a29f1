"""Libraries of the `metrics` extra: imported when they are asked for, and beside a torchvision that does not fit torch.

A torchvision built for CUDA beside a torch built for the CPU, or for another release, cannot load its operators, and
then refuses to be imported at all, with everything that builds on it. The networks here need none of these operators:
where that is all that is amiss, they are declared and stay without an implementation.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import torch

from pyeqgan.errors import UserError

UNDECLARED = ("nms", "qnms")
SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def library(name: str, *, option: str) -> ModuleType:
    """Import a module of the `metrics` extra.

    Args:
        name: of the module.
        option: of the command line that needs it, for the message.

    Raises:
        UserError: it is not installed, or cannot be imported.
    """
    try:
        try:
            return import_module(name)
        except RuntimeError as error:
            if "operator torchvision::" not in str(error):
                raise
            for operator in UNDECLARED:
                if not hasattr(torch.ops.torchvision, operator):
                    torch.library.define(f"torchvision::{operator}", SCHEMA)
            return import_module(name)
    except ModuleNotFoundError as error:
        raise _missing(str(error.name), option) from error
    except (ImportError, RuntimeError) as error:
        raise UserError(f"{option}: cannot import {name}: {str(error).partition(chr(10))[0]}") from error


def library_folder(name: str, *, option: str) -> Path:
    """Where a package of the `metrics` extra is installed, without importing it; UserError if it is not."""
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise _missing(name, option)
    return Path(spec.submodule_search_locations[0])


def _missing(name: str, option: str) -> UserError:
    return UserError(f"{option}: {name} is not installed: pip install 'pyeqgan[metrics]'")
