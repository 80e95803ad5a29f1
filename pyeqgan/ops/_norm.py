"""What the operations with a normalisation inside share: the checks of its arguments and its statistics."""

from __future__ import annotations

import torch
from torch import Tensor

from pyeqgan.ops import _checks as check
from pyeqgan.reference import accumulation_dtype


def check_norm(
    op: str,
    norm: str | None,
    features: int,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    *,
    prefix: str = "",
) -> tuple[float, float]:
    """Check the norm arguments of an operation on the image tensor ``x``; returns momentum and eps as floats.

    ``prefix`` stands before the argument names of an operation that has several norms ("fuse_", "out_").
    """
    check.choice(op, "norm", norm, (None, "batch", "instance"))
    check.flag(op, "training", training)
    arguments = {
        f"{prefix}norm_weight": weight,
        f"{prefix}norm_bias": bias,
        f"{prefix}running_mean": running_mean,
        f"{prefix}running_var": running_var,
    }
    allowed = tuple({x.dtype, accumulation_dtype(x.dtype)})
    for name, value in arguments.items():
        if value is None:
            continue
        if norm is None:
            check.fail(op, name, "None without a norm", "a tensor")
        check.tensor(op, name, value, shape=(features,), dtype=allowed, device=x.device)
    if (running_mean is None) != (running_var is None):
        check.fail(op, f"{prefix}running_mean, {prefix}running_var", "both or neither", "one of them")
    if norm == "instance" and running_mean is not None:
        check.fail(op, f"{prefix}running_mean", "None with an instance norm", "a tensor")
    if norm == "batch" and not training and running_mean is None:
        check.fail(op, f"{prefix}running_mean", "a tensor when a batch norm is not training", None)
    momentum = check.number(op, "momentum", momentum, minimum=0)
    if momentum > 1:
        check.fail(op, "momentum", "a number in [0, 1]", momentum)
    return momentum, check.number(op, "eps", eps, minimum=0)


def empty_statistics(x: Tensor, norm: str | None, features: int) -> Tensor:
    """An uninitialised mean or variance: (C,) for a batch norm, (B,C) for an instance norm, else (0,)."""
    shape = {None: (0,), "batch": (features,), "instance": (x.shape[0], features)}[norm]
    return torch.empty(shape, dtype=accumulation_dtype(x.dtype), device=x.device)
