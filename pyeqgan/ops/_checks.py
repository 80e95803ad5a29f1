"""Argument checks that name the operation, the argument, what was expected and what came."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.autograd import forward_ad

FLOATING = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
FLOAT32 = torch.finfo(torch.float32)


def fail(op: str, argument: str, expected: str, got: object, error: type[Exception] = ValueError) -> NoReturn:
    """Raise ``error`` in the one form all operations share."""
    raise error(f"{op}: {argument}: expected {expected}, got {got}")


def tensor(
    op: str,
    argument: str,
    value: Tensor,
    *,
    shape: Sequence[int | str] | None = None,
    dtype: torch.dtype | Sequence[torch.dtype] | None = FLOATING,
    device: torch.device | None = None,
) -> None:
    """Check that ``value`` is a strided tensor of the given shape, dtype and device.

    In ``shape`` an integer must match, a string stands for any size and names it in the message.
    """
    if not isinstance(value, Tensor):
        fail(op, argument, "a tensor", type(value).__name__, TypeError)
    if value.layout != torch.strided:
        fail(op, argument, "a strided (dense) tensor", value.layout, TypeError)
    if dtype is not None:
        allowed = (dtype,) if isinstance(dtype, torch.dtype) else tuple(dtype)
        if value.dtype not in allowed:
            fail(op, argument, " or ".join(str(d) for d in allowed), value.dtype, TypeError)
    if shape is not None:
        wrong = value.dim() != len(shape) or any(
            isinstance(expected, int | torch.SymInt) and expected != size
            for expected, size in zip(shape, value.shape, strict=True)
        )
        if wrong:
            fail(op, argument, f"shape {_shape(shape)}", f"shape {tuple(value.shape)}")
    if device is not None and value.device != device:
        fail(op, argument, f"device {device}", value.device)


def not_empty(op: str, argument: str, value: Tensor) -> None:
    """Check that no size of a weight is 0."""
    if 0 in value.shape:
        fail(op, argument, "sizes >= 1", f"shape {tuple(value.shape)}")


def _shape(sizes: Sequence[int | str]) -> str:
    return f"({', '.join(map(str, sizes))}{',' if len(sizes) == 1 else ''})"


def number(op: str, argument: str, value: float, *, positive: bool = False, minimum: float | None = None) -> float:
    """Check a finite real number, optionally > 0 or >= ``minimum``, and return it as a float.

    It must also be one in float32, which the kernels compute in: neither infinite there nor, if positive, zero.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        fail(op, argument, "a number", type(value).__name__, TypeError)
    # Written so that NaN fails and an integer of any size is compared, not converted.
    if not abs(value) < math.inf or (positive and value <= 0) or (minimum is not None and value < minimum):
        bound = " > 0" if positive else f" >= {minimum:g}" if minimum is not None else ""
        fail(op, argument, f"a finite number{bound}", value)
    if abs(value) > FLOAT32.max or (positive and value < FLOAT32.tiny):
        fail(op, argument, "a number in the range of float32", value)
    return float(value)


def integer(
    op: str, argument: str, value: int, *, minimum: int | None = None, maximum: int = torch.iinfo(torch.int64).max
) -> int:
    """Check an integer that int64 can hold, optionally >= ``minimum`` and <= ``maximum``."""
    if isinstance(value, bool) or not isinstance(value, int | torch.SymInt):
        fail(op, argument, "an integer", type(value).__name__, TypeError)
    if minimum is not None and value < minimum:
        fail(op, argument, f"an integer >= {minimum}", value)
    if value > maximum or value < torch.iinfo(torch.int64).min:
        fail(op, argument, f"an integer <= {maximum}" if value > 0 else "an integer of int64", value)
    return value


def flag(op: str, argument: str, value: bool) -> None:
    """Check True or False."""
    if not isinstance(value, bool):
        fail(op, argument, "True or False", type(value).__name__, TypeError)


def sequence(op: str, argument: str, value: Sequence[Any], items: str) -> None:
    """Check a list or tuple; ``items`` says of what."""
    if not isinstance(value, list | tuple):
        fail(op, argument, f"a list or tuple of {items}", type(value).__name__, TypeError)


def scale_weights(op: str, weights: Sequence[float] | None, scales: int) -> list[float]:
    """Check one weight >= 0 for each scale of a pyramid and return them; None stands for 1 each."""
    if weights is None:
        return [1.0] * scales
    sequence(op, "scale_weights", weights, "numbers")
    if len(weights) != scales:
        fail(op, "scale_weights", f"{scales} numbers, one a scale", len(weights))
    return [number(op, "scale_weights", w, minimum=0) for w in weights]


def choice(op: str, argument: str, value: str | None, choices: Sequence[str | None]) -> None:
    """Check that ``value`` is one of ``choices``."""
    if value not in choices:
        got = repr(value) if value is None or isinstance(value, str) else type(value).__name__
        fail(op, argument, "one of " + ", ".join(repr(c) for c in choices), got)


def readable(value: Tensor) -> bool:
    """Whether the values of a tensor can be looked at without a device synchronisation or a graph break."""
    return (
        not torch.compiler.is_compiling()
        and type(value) in (Tensor, torch.nn.Parameter)
        and value.device.type == "cpu"
        and not torch._C._functorch.is_functorch_wrapped_tensor(value)
    )


def no_forward_mode(op: str, *values: Tensor | None) -> None:
    """Refuse dual tensors: the operations have no forward-mode rule, and torch would return zero tangents."""
    if torch.compiler.is_compiling() or forward_ad._current_level < 0:
        return
    for value in values:
        if isinstance(value, Tensor) and forward_ad.unpack_dual(value).tangent is not None:
            raise NotImplementedError(f"{op}: forward-mode differentiation is not supported; use reverse mode")
