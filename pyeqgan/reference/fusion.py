"""Local fusion (LoFGAN, ICCV 2021) and the same blend on a finer map."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pyeqgan.reference.arithmetic import accumulation_dtype


def local_fusion(base: Tensor, references: Tensor, weights: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Few-shot local fusion (LoFGAN, ICCV 2021). See :func:`pyeqgan.functional.local_fusion`."""
    dtype = accumulation_dtype(base.dtype)
    channels, count = base.shape[1], positions.shape[1]
    features = base.flatten(2).to(dtype)
    candidates = references.flatten(3).to(dtype)
    index = positions[:, None].expand(-1, channels, -1)
    selected = features.gather(2, index)
    with torch.no_grad():
        unit = candidates / candidates.norm(dim=2, keepdim=True).clamp_min(1e-12)
        similarity = torch.einsum("bcm,brcn->brmn", selected, unit)
        shape = (*similarity.shape[:2], count)
        matches = similarity.argmax(-1) if similarity.numel() else similarity.new_zeros(shape, dtype=torch.long)
    gathered = candidates.gather(3, matches[:, :, None].expand(-1, -1, channels, -1))
    share = weights.to(dtype)
    blend = share[:, :1, None] * selected + (share[:, 1:, None, None] * gathered).sum(1)
    fused = features.scatter(2, index, blend).view(base.shape)
    return fused.to(base.dtype), matches


def lifted_fusion(
    base: Tensor,
    references: Tensor,
    weights: Tensor,
    positions: Tensor,
    matches: Tensor,
    grid: Sequence[int],
) -> Tensor:
    """The blend of a local fusion on a finer map. See :func:`pyeqgan.functional.lifted_fusion`."""
    dtype = accumulation_dtype(base.dtype)
    patches = _patches(base.to(dtype), grid)
    candidates = _patches(references.to(dtype).flatten(0, 1), grid).unflatten(0, references.shape[:2])
    size = patches.shape[1]
    index = positions[:, None].expand(-1, size, -1)
    gathered = candidates.gather(3, matches[:, :, None].expand(-1, -1, size, -1))
    share = weights.to(dtype)
    blend = share[:, :1, None] * patches.gather(2, index) + (share[:, 1:, None, None] * gathered).sum(1)
    fused = patches.scatter(2, index, blend)
    return _unpatch(fused, base.shape, grid).to(base.dtype)


def _patches(x: Tensor, grid: Sequence[int]) -> Tensor:
    """(B,C,s·h,s·w) as columns of aligned patches (B,C·s·s,h·w)."""
    batch, channels, height, width = x.shape
    h, w = grid
    s, t = height // h, width // w
    return x.reshape(batch, channels, h, s, w, t).permute(0, 1, 3, 5, 2, 4).reshape(batch, channels * s * t, h * w)


def _unpatch(columns: Tensor, shape: Sequence[int], grid: Sequence[int]) -> Tensor:
    batch, channels, height, width = shape
    h, w = grid
    s, t = height // h, width // w
    return columns.view(batch, channels, s, t, h, w).permute(0, 1, 4, 2, 5, 3).reshape(*shape)
