"""The operations in PyTorch's own layers at the dtype itself, where the oracles compute more accurately: every layer
rounds its result. What the oracle does no better is the oracle's."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pyeqgan.reference import (  # noqa: F401
    activated_conv2d,
    bilateral_propagation,
    contrastive_loss,
    equalization_consistency_loss,
    lifted_fusion,
    local_fusion,
    one_hot,
    similarity_loss,
)


def layout_conv2d(
    labels: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    stride: int = 1,
    padding: int = 0,
    activation: str | None = None,
    negative_slope: float = 0.2,
) -> Tensor:
    y = F.conv2d(one_hot(labels, weight.shape[1], -1, weight.dtype), weight, bias, stride, padding)
    return activate(y, activation, negative_slope)


def normalise(x: Tensor, norm: str | None, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    if norm is None:
        return x
    function = F.batch_norm if norm == "batch" else F.instance_norm
    return function(x, None, None, weight, bias, True)


def activate(x: Tensor, activation: str | None, negative_slope: float) -> Tensor:
    if activation is None:
        return x
    return {"relu": F.relu, "tanh": torch.tanh, "leaky_relu": lambda t: F.leaky_relu(t, negative_slope)}[activation](x)


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
    training: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    activation: str | None = "leaky_relu",
    negative_slope: float = 0.2,
) -> Tensor:
    joined = _doubled(x)
    if skip is not None:
        joined = torch.cat([joined, skip if skip.shape[-2:] != x.shape[-2:] else _doubled(skip)], 1)
    mode = "reflect" if joined.numel() else "constant"  # torch refuses to reflect an empty batch
    y = F.conv2d(F.pad(joined, (1, 1, 1, 1), mode=mode), weight, bias)
    if norm == "batch":
        y = F.batch_norm(y, running_mean, running_var, norm_weight, norm_bias, training, momentum, eps)
    elif norm == "instance":
        y = F.instance_norm(y, weight=norm_weight, bias=norm_bias, eps=eps)
    return activate(y, activation, negative_slope)


def modulated_norm(
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    *,
    norm: str | None = "instance",
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    activation: str | None = "leaky_relu",
    negative_slope: float = 0.2,
) -> Tensor:
    if norm == "batch":
        x = F.batch_norm(x, running_mean, running_var, None, None, training, momentum, eps)
    elif norm == "instance":
        x = F.instance_norm(x, eps=eps)
    if gamma.dim() == 2:
        gamma, beta = gamma[:, :, None, None], beta[:, :, None, None]
    return activate(x * (1 + gamma) + beta, activation, negative_slope)


def _doubled(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, -2).repeat_interleave(2, -1)


def equalization_fusion(
    structure: Tensor,
    texture: Tensor,
    fuse_weight: Tensor,
    fuse_bias: Tensor,
    reduce_weight: Tensor,
    reduce_bias: Tensor,
    expand_weight: Tensor,
    expand_bias: Tensor,
    out_weight: Tensor,
    *,
    norm: str | None,
    negative_slope: float = 0.2,
    training: bool = True,
    detail: Tensor | None = None,
    **norms: Tensor,
) -> Tensor:
    def activated(x: Tensor, prefix: str) -> Tensor:
        y = normalise(x, norm, norms.get(f"{prefix}_norm_weight"), norms.get(f"{prefix}_norm_bias"))
        return F.leaky_relu(y, negative_slope)

    x = torch.cat([structure, texture] if detail is None else [structure, texture, detail], 1)
    x = activated(F.conv2d(x, fuse_weight, fuse_bias), "fuse")
    squeezed = F.relu(F.conv2d(x.mean((2, 3), keepdim=True), reduce_weight, reduce_bias))
    gate = torch.sigmoid(F.conv2d(squeezed, expand_weight, expand_bias))[..., 0, 0]
    return activated(F.conv2d(bilateral_propagation(x, gate), out_weight), "out")
