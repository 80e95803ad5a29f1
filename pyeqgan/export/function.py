"""A generator as a function of tensors alone, which is what can be written down as a graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class TensorFunction:
    """A module of tensors, and what they are called.

    Attributes:
        module: in eval mode on the CPU, without gradients; nothing in it is random.
        arguments: an example of its inputs.
        sizes: of each input those that are free, by their dimension, in the form of :func:`torch.export.export`.
        inputs: names of its inputs, in their order.
        outputs: names of what it returns: one tensor, or a tuple of several.
    """

    module: nn.Module
    arguments: tuple[Tensor, ...]
    sizes: tuple[Any, ...]
    inputs: list[str]
    outputs: list[str]
