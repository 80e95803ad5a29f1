"""Convolutions with what stands before and after them: upsampling, padding, activation, normalisation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pyeqgan.reference.arithmetic import accumulation_dtype, activate, normalize, update_running_statistics


def skip_decoder_block(
    x: Tensor,
    skip: Tensor | None,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    norm: str | None = None,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    activation: str | None = "leaky_relu",
    negative_slope: float = 0.2,
) -> Tensor:
    """Upsample, join, convolve, normalise, activate. See :func:`pyeqgan.functional.skip_decoder_block`."""
    y, _, mean, var = skip_decoder_block_with_statistics(
        x,
        skip,
        weight,
        bias,
        norm=norm,
        norm_weight=norm_weight,
        norm_bias=norm_bias,
        running_mean=running_mean,
        running_var=running_var,
        training=training,
        eps=eps,
        activation=activation,
        negative_slope=negative_slope,
    )
    if norm == "batch" and training:
        update_running_statistics(running_mean, running_var, mean, var, momentum, y.numel() // max(y.shape[1], 1))
    return y


def skip_decoder_block_with_statistics(
    x: Tensor,
    skip: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    *,
    norm: str | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    eps: float,
    activation: str | None,
    negative_slope: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The block's y, the convolution's result before the norm, and the mean and variance the norm used."""
    dtype = accumulation_dtype(x.dtype)
    joined = _upsample(x.to(dtype))
    if skip is not None:
        fine = skip.shape[-2:] != x.shape[-2:]
        joined = torch.cat([joined, skip.to(dtype) if fine else _upsample(skip.to(dtype))], 1)
    mode = "reflect" if joined.numel() else "constant"  # torch refuses to reflect an empty batch
    pre = F.conv2d(F.pad(joined, (1, 1, 1, 1), mode=mode), weight.to(dtype), None if bias is None else bias.to(dtype))
    y, mean, var = normalize(pre, norm, norm_weight, norm_bias, running_mean, running_var, training, eps)
    return activate(y, activation, negative_slope).to(x.dtype), pre, mean, var


def _upsample(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, -2).repeat_interleave(2, -1)


PADDING_MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "replicate"}


def activated_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: str | None = "leaky_relu",
    negative_slope: float = 0.2,
    padding: int = 1,
    padding_mode: str = "reflect",
) -> Tensor:
    """Activate, pad, convolve with stride 1. See :func:`pyeqgan.functional.activated_conv2d`."""
    dtype = accumulation_dtype(x.dtype)
    h = activate(x.to(dtype), activation, negative_slope)
    mode = PADDING_MODES[padding_mode] if h.numel() else "constant"
    padded = F.pad(h, (padding,) * 4, mode=mode) if padding else h
    return F.conv2d(padded, weight.to(dtype), None if bias is None else bias.to(dtype)).to(x.dtype)
