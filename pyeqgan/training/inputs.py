"""What a step is given: tensors in a structure, and nothing else that could differ between two steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def mapped(function: Callable[[Tensor], Any], inputs: Any) -> Any:
    """The same structure with `function` of every tensor.

    Args:
        function: of a tensor.
        inputs: a tensor or None, or a dataclass, (named) tuple or dictionary of inputs.

    Raises:
        TypeError: there is something else in it: a number would be the first step's in every replay of a graph.
    """
    if inputs is None:
        return None
    if isinstance(inputs, Tensor):
        return function(inputs)
    if dataclasses.is_dataclass(inputs) and not isinstance(inputs, type):
        names = [field.name for field in dataclasses.fields(inputs)]
        return dataclasses.replace(inputs, **{name: mapped(function, getattr(inputs, name)) for name in names})
    if isinstance(inputs, dict):
        return {key: mapped(function, value) for key, value in inputs.items()}
    if isinstance(inputs, tuple):
        items = [mapped(function, item) for item in inputs]
        return type(inputs)(*items) if hasattr(inputs, "_fields") else tuple(items)
    raise TypeError(f"a step's inputs: expected tensors, got {type(inputs).__name__}")


def tensors(inputs: Any) -> list[Tensor]:
    """The tensors of a structure, in its order."""
    found: list[Tensor] = []
    mapped(found.append, inputs)
    return found


def on_device(inputs: Any, device: torch.device) -> Any:
    """The inputs on a device. What goes to a GPU is pinned first: the host then does not wait for the copy."""

    def move(tensor: Tensor) -> Tensor:
        pinned = tensor.pin_memory() if device.type == "cuda" and tensor.device.type == "cpu" else tensor
        return pinned.to(device, non_blocking=True)

    return mapped(move, inputs)
