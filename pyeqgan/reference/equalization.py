"""Feature equalization (MEDFE, ECCV 2020; EqGAN, arXiv 2307.14638) and the loss that keeps it consistent."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from pyeqgan.reference.arithmetic import accumulation_dtype, normalize, update_running_statistics


def spatial_radius(sigma: float, radius: int | None) -> int:
    """The truncation radius of the spatial Gaussian: ``ceil(5·sigma)`` unless given; no map is larger than 2³¹."""
    return math.ceil(min(5 * sigma, 2.0**31)) if radius is None else radius


def spatial_matrix(size: int, sigma: float, radius: int, *, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The row-normalised truncated Gaussian A (size,size) of the spatial propagation."""
    position = torch.arange(size, dtype=torch.float64, device=device)
    distance = position[:, None] - position
    weight = torch.exp(-(distance**2) / (2 * sigma**2)) * (distance.abs() <= radius)
    return (weight / weight.sum(1, keepdim=True)).to(dtype)


def neighbours(x: Tensor) -> Tensor:
    """The 3×3 neighbourhood of every pixel, zero outside the map: (B,C,H,W) → (B,9,C,H,W), row-major."""
    height, width = x.shape[-2:]
    padded = F.pad(x, (1, 1, 1, 1))
    return torch.stack([padded[..., i : i + height, j : j + width] for i in range(3) for j in range(3)], 1)


def bilateral_propagation(
    x: Tensor, gate: Tensor | None = None, *, sigma: float = 1.5, radius: int | None = None
) -> Tensor:
    """Spatial and range propagation (MEDFE, ECCV 2020). See :func:`pyeqgan.functional.bilateral_propagation`."""
    return bilateral_propagation_with_affinity(x, gate, sigma, spatial_radius(sigma, radius))[0]


def bilateral_propagation_with_affinity(
    x: Tensor, gate: Tensor | None, sigma: float, radius: int
) -> tuple[Tensor, Tensor]:
    """The propagation and the softmax weights a (B,9,H,W) of its range term, which the kernels save."""
    dtype = accumulation_dtype(x.dtype)
    channels, height, width = x.shape[1:]
    v = x.to(dtype) if gate is None else x.to(dtype) * gate.to(dtype)[:, :, None, None]
    rows = spatial_matrix(height, sigma, radius, dtype=dtype, device=x.device)
    columns = spatial_matrix(width, sigma, radius, dtype=dtype, device=x.device)
    spatial = torch.einsum("ih,bchw,jw->bcij", rows, v, columns)
    squashed = torch.sigmoid(v)
    affinity = torch.einsum("bchw,bkchw->bkhw", squashed, neighbours(squashed)) / channels
    affinity = torch.softmax(affinity, 1)
    ranged = torch.einsum("bkhw,bkchw->bchw", affinity, neighbours(v))
    return torch.cat([spatial, ranged], 1).to(x.dtype), affinity


def equalization_fusion(
    structure: Tensor,
    texture: Tensor,
    fuse_weight: Tensor,
    fuse_bias: Tensor | None,
    gate_reduce_weight: Tensor,
    gate_reduce_bias: Tensor | None,
    gate_expand_weight: Tensor,
    gate_expand_bias: Tensor | None,
    out_weight: Tensor,
    *,
    detail: Tensor | None = None,
    norm: str | None = "instance",
    fuse_norm_weight: Tensor | None = None,
    fuse_norm_bias: Tensor | None = None,
    fuse_running_mean: Tensor | None = None,
    fuse_running_var: Tensor | None = None,
    out_norm_weight: Tensor | None = None,
    out_norm_bias: Tensor | None = None,
    out_running_mean: Tensor | None = None,
    out_running_var: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    sigma: float = 1.5,
    negative_slope: float = 0.2,
) -> Tensor:
    """Feature equalization. See :func:`pyeqgan.functional.equalization_fusion`."""
    dtype = accumulation_dtype(structure.dtype)

    def convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv2d(x, weight.to(dtype), None if bias is None else bias.to(dtype))

    def normalize_and_activate(
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        running_mean: Tensor | None,
        running_var: Tensor | None,
    ) -> Tensor:
        y, mean, var = normalize(x, norm, weight, bias, running_mean, running_var, training, eps)
        if norm == "batch" and training:
            count = x.numel() // max(x.shape[1], 1)
            update_running_statistics(running_mean, running_var, mean, var, momentum, count)
        return F.leaky_relu(y, negative_slope)

    inputs = [structure, texture] if detail is None else [structure, texture, detail]
    x = convolve(torch.cat([i.to(dtype) for i in inputs], 1), fuse_weight, fuse_bias)
    x = normalize_and_activate(x, fuse_norm_weight, fuse_norm_bias, fuse_running_mean, fuse_running_var)
    gate = F.relu(convolve(x.mean((2, 3), keepdim=True), gate_reduce_weight, gate_reduce_bias))
    gate = torch.sigmoid(convolve(gate, gate_expand_weight, gate_expand_bias))[:, :, 0, 0]
    y = convolve(bilateral_propagation(x, gate, sigma=sigma), out_weight, None)
    y = normalize_and_activate(y, out_norm_weight, out_norm_bias, out_running_mean, out_running_var)
    return y.to(structure.dtype)


def equalization_consistency_loss(
    equalized: Sequence[Tensor],
    decoded: Sequence[Tensor],
    *,
    scale_weights: Sequence[float] | None = None,
    distance: str = "cosine",
    detach: str | None = None,
) -> Tensor:
    """Distance of two feature pyramids. See :func:`pyeqgan.functional.equalization_consistency_loss`."""
    weights = [1.0] * len(equalized) if scale_weights is None else list(scale_weights)
    dtype = accumulation_dtype(equalized[0].dtype)
    total = torch.zeros((), dtype=dtype, device=equalized[0].device)
    for weight, e, d in zip(weights, equalized, decoded, strict=True):
        a = (e.detach() if detach == "equalized" else e).to(dtype)
        b = (d.detach() if detach == "decoded" else d).to(dtype)
        if a.numel() == 0:
            total = total + a.sum() + b.sum()  # 0, attached to the graph
            continue
        if distance == "cosine":
            value = 1 - F.cosine_similarity(a, b, dim=1, eps=1e-8)
        elif distance == "l1":
            value = (a - b).abs()
        else:
            value = (a - b).square()
        total = total + weight * value.mean()
    return total
