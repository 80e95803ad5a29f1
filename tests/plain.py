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
)


def normalise(x: Tensor, norm: str | None, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    if norm is None:
        return x
    function = F.batch_norm if norm == "batch" else F.instance_norm
    return function(x, None, None, weight, bias, True)


def skip_decoder_block(
    x: Tensor,
    skip: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    norm: str | None,
    activation: str = "leaky_relu",
    training: bool = True,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
) -> Tensor:
    up = F.interpolate(x, scale_factor=2)
    skip = skip if skip.shape[2:] == up.shape[2:] else F.interpolate(skip, scale_factor=2)
    y = F.conv2d(F.pad(torch.cat([up, skip], 1), (1, 1, 1, 1), mode="reflect"), weight, bias)
    y = normalise(y, norm, norm_weight, norm_bias)
    return {"leaky_relu": lambda t: F.leaky_relu(t, 0.2), "tanh": torch.tanh, "relu": torch.relu}[activation](y)


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
