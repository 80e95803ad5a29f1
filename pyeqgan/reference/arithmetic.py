"""In which precision the oracles compute, and what follows a sum: activation and normalisation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype sums are kept in: float64 for float64, float32 for everything narrower."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def activate(x: Tensor, activation: str | None, negative_slope: float) -> Tensor:
    """Apply one of the activations the fused operations know: None, "relu", "leaky_relu", "tanh"."""
    if activation is None:
        return x
    if activation == "relu":
        return F.relu(x)
    if activation == "tanh":
        return torch.tanh(x)
    return F.leaky_relu(x, negative_slope)


def normalize(
    x: Tensor,
    norm: str | None,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Batch or instance normalisation; also returns the mean and the biased variance it used.

    Both are of shape (C,) for "batch", (B,C) for "instance" and (0,) without normalisation. Running statistics
    are read (in evaluation), never written: see :func:`update_running_statistics`.
    """
    if norm is None:
        return x, x.new_empty(0), x.new_empty(0)
    if norm == "batch" and not training:
        assert running_mean is not None and running_var is not None
        mean, var = running_mean.to(x.dtype), running_var.to(x.dtype)
    else:
        dims = (0, 2, 3) if norm == "batch" else (2, 3)
        mean = x.mean(dims)
        var = (x - mean[..., None, None]).square().mean(dims)
    y = (x - mean[..., None, None]) * torch.rsqrt(var[..., None, None] + eps)
    if weight is not None:
        y = y * weight.to(x.dtype)[:, None, None]
    if bias is not None:
        y = y + bias.to(x.dtype)[:, None, None]
    return y, mean, var


@torch.no_grad()
def update_running_statistics(
    running_mean: Tensor | None,
    running_var: Tensor | None,
    mean: Tensor,
    var: Tensor,
    momentum: float,
    count: int,
) -> None:
    """Move the running statistics of a batch norm towards a batch's; ``var`` is biased, the running one is not."""
    if running_mean is None or running_var is None or count == 0:
        return
    running_mean.lerp_(mean.to(running_mean.dtype), momentum)
    running_var.lerp_((var * (count / max(count - 1, 1))).to(running_var.dtype), momentum)
