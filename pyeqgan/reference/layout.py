"""Convolution of a layout, of which every pixel is one class."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pyeqgan.reference.arithmetic import accumulation_dtype, activate


def layout_conv2d(
    labels: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int = 1,
    padding: int = 0,
    ignore_index: int = -1,
    activation: str | None = None,
    negative_slope: float = 0.2,
) -> Tensor:
    """Convolve the one-hot layout and activate. See :func:`pyeqgan.functional.layout_conv2d`."""
    dtype = accumulation_dtype(weight.dtype)
    x = one_hot(labels, weight.shape[1], ignore_index, dtype)
    padded = F.pad(x, (padding,) * 4)  # apart: torch's convolution takes no empty map, whatever its padding
    y = F.conv2d(padded, weight.to(dtype), None if bias is None else bias.to(dtype), stride)
    return activate(y, activation, negative_slope).to(weight.dtype)


def one_hot(labels: Tensor, num_classes: int, ignore_index: int, dtype: torch.dtype) -> Tensor:
    """(B,H,W) labels as (B,num_classes,H,W) of zeros and ones; an ignored pixel is all zeros."""
    classes = torch.arange(num_classes, device=labels.device)[:, None, None]
    return ((labels[:, None] == classes) & (labels[:, None] != ignore_index)).to(dtype)
