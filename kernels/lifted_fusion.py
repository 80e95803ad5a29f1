"""``lifted_fusion`` in Triton: the maths of ops.md section 1, forward and backward.

A program owns a block of channels × pixels of the fine map and finds out which of its pixels belong to a selected
patch. Nothing gathered is stored. The gradient of a reference is gathered, too: the positions are sorted by their
match, and a pixel adds those of its patch up in order, without atomics. Any strides; float32, bfloat16 and float16, all
sums in float32.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
# The functions under @triton.jit are written in Triton's language; they have no Python types.

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from pyeqgan.kernels._config import tiled
from pyeqgan.kernels._image import block_of_image, offsets
from pyeqgan.kernels._launch import blocks, groups, over_image, strided
from pyeqgan.kernels._products import DTYPES
from pyeqgan.ops._library import empty_image
from pyeqgan.ops.lifted_fusion import empty_references

LARGEST = 2**31 - 1024  # cells: an int32 counts them, and the rest of a tile
SIZE = ("channels", "rows", "columns", "scale", "selected")


@triton.jit
def owners(positions, image, selected, cell, MEMBERS: tl.constexpr):
    """Which of the selected positions is each cell, −1 where none is."""
    owner = tl.full(cell.shape, -1, tl.int32)
    for first in range(0, selected, MEMBERS):
        i = first + tl.arange(0, MEMBERS)
        position = tl.load(positions + image * selected + i, i < selected, -1).to(tl.int32)
        owner = tl.maximum(owner, tl.max(tl.where(position[None, :] == cell[:, None], i[None, :], -1), 1))
    return owner


@triton.jit
def fine(cell, y, x, columns, scale):
    """Row and column of the pixel that lies in the patch of a cell where (y, x) lies in its own."""
    return (cell // columns).to(tl.int32) * scale + y % scale, (cell % columns).to(tl.int32) * scale + x % scale


@triton.jit
def content(references, stride_c, stride_h, stride_w, matches, owner, mask, c, y, x, columns, scale):
    """Of the pixels a reference gives to some selected pixels, float32; 0 where nothing is selected."""
    cell = tl.load(matches + owner, owner >= 0, 0)
    row, column = fine(cell, y, x, columns, scale)
    return tl.load(references + offsets(0, c, row, column, 0, stride_c, stride_h, stride_w), mask, 0.0).to(tl.float32)


@tiled("fusion_blend", SIZE)
@triton.jit
def blend(
    base, base_b, base_c, base_h, base_w, references, of_image, of_reference, of_channel, of_row, of_column,
    weights, positions, matches, fused, fused_b, fused_c, fused_h, fused_w,
    count, selected, channels, rows, columns, scale,
    CHANNELS: tl.constexpr, PIXELS: tl.constexpr, MEMBERS: tl.constexpr,
):  # fmt: skip
    """Of fused: base, or where a patch is selected its blend."""
    image, c, y, x, mask, _ = block_of_image(channels, rows * scale, columns * scale, CHANNELS, PIXELS)
    owner = owners(positions, image, selected, y // scale * columns + x // scale, MEMBERS)
    chosen = mask & (owner >= 0)[None, :]
    value = tl.load(base + offsets(image, c, y, x, base_b, base_c, base_h, base_w), mask, 0.0).to(tl.float32)
    share = weights + image * (count + 1)
    total = tl.load(share).to(tl.float32) * value
    for r in range(0, count):
        source = references + image * of_image + tl.cast(r, tl.int64) * of_reference
        given = matches + (image * count + r) * selected
        found = content(source, of_channel, of_row, of_column, given, owner, chosen, c, y, x, columns, scale)
        total += tl.load(share + r + 1).to(tl.float32) * found
    result = tl.where(chosen, total, value)
    tl.store(fused + offsets(image, c, y, x, fused_b, fused_c, fused_h, fused_w), result, mask)


@tiled("fusion_blend", SIZE)
@triton.jit
def blend_backward(
    grad, grad_b, grad_c, grad_h, grad_w, base, base_b, base_c, base_h, base_w,
    references, of_image, of_reference, of_channel, of_row, of_column, weights, positions, matches,
    out, out_b, out_c, out_h, out_w, terms, count, selected, channels, rows, columns, scale,
    CHANNELS: tl.constexpr, PIXELS: tl.constexpr, MEMBERS: tl.constexpr,
):  # fmt: skip
    """The gradient of base (unless None), and each program's terms (count+1) of those of the weights (unless None)."""
    image, c, y, x, mask, _ = block_of_image(channels, rows * scale, columns * scale, CHANNELS, PIXELS)
    owner = owners(positions, image, selected, y // scale * columns + x // scale, MEMBERS)
    chosen = mask & (owner >= 0)[None, :]
    g = tl.load(grad + offsets(image, c, y, x, grad_b, grad_c, grad_h, grad_w), mask, 0.0).to(tl.float32)
    if out is not None:
        kept = tl.where(chosen, tl.load(weights + image * (count + 1)).to(tl.float32) * g, g)
        tl.store(out + offsets(image, c, y, x, out_b, out_c, out_h, out_w), kept, mask)
    if terms is not None:
        g = tl.where(chosen, g, 0.0)
        own = tl.load(base + offsets(image, c, y, x, base_b, base_c, base_h, base_w), chosen, 0.0).to(tl.float32)
        line = terms + tl.program_id(0).to(tl.int64) * (count + 1)
        tl.store(line, tl.sum(tl.sum(g * own, 1), 0))
        for r in range(0, count):
            source = references + image * of_image + tl.cast(r, tl.int64) * of_reference
            given = matches + (image * count + r) * selected
            found = content(source, of_channel, of_row, of_column, given, owner, chosen, c, y, x, columns, scale)
            tl.store(line + r + 1, tl.sum(tl.sum(g * found, 1), 0))


@tiled("fusion_blend", SIZE)
@triton.jit
def reference_gradient(
    grad, grad_b, grad_c, grad_h, grad_w, weights, takers, starts,
    out, of_image, of_reference, of_channel, of_row, of_column, count, selected, channels, rows, columns, scale,
    CHANNELS: tl.constexpr, PIXELS: tl.constexpr,
):  # fmt: skip
    """Of one reference: of the positions that took a cell, takers[starts[cell]] and so on, the gradients' sum."""
    item, c, y, x, mask, _ = block_of_image(channels, rows * scale, columns * scale, CHANNELS, PIXELS)
    image, reference = item // count, item % count
    inside = y < rows * scale
    start = starts + item * (tl.cast(rows, tl.int64) * columns + 1) + (y // scale * columns + x // scale)
    begin = tl.load(start, inside, 0)
    number = tl.load(start + 1, inside, 0) - begin
    total = tl.zeros((CHANNELS, PIXELS), tl.float32)
    for member in range(0, tl.max(number, 0)):
        there = member < number
        cell = tl.load(takers + item * selected + begin + member, there, 0)
        row, column = fine(cell, y, x, columns, scale)
        at = offsets(image, c, row, column, grad_b, grad_c, grad_h, grad_w)
        total += tl.load(grad + at, mask & there[None, :], 0.0).to(tl.float32)
    total *= tl.load(weights + image * (count + 1) + reference + 1).to(tl.float32)
    target = out + reference * of_reference + offsets(image, c, y, x, of_image, of_channel, of_row, of_column)
    tl.store(target, total, mask)


def _size(base: Tensor, references: Tensor, positions: Tensor, grid: Sequence[int]) -> tuple[int, ...]:
    """Count, selected, channels, rows, columns, scale."""
    scale = base.shape[2] // grid[0] if grid[0] else 1
    return references.shape[1], positions.shape[1], base.shape[1], grid[0], grid[1], scale


def check(op: str, base: Tensor, grid: Sequence[int]) -> None:
    """Refuse what neither fusion computes: see ``forward``."""
    if base.dtype not in DTYPES:
        raise TypeError(f"{op} (Triton): base: expected float32, bfloat16 or float16, got {base.dtype}")
    if grid[0] * grid[1] > LARGEST:
        raise ValueError(f"{op} (Triton): grid: expected at most {LARGEST} cells, got {grid[0] * grid[1]}")


def forward(
    base: Tensor, references: Tensor, weights: Tensor, positions: Tensor, matches: Tensor, grid: Sequence[int]
) -> Tensor:
    """The operation ``pyeqgan::lifted_fusion``: fused, like base.

    Raises:
        TypeError: base is of another dtype than float32, bfloat16, float16.
        ValueError: a grid of more cells than an int32 counts.
    """
    check("lifted_fusion", base, grid)
    fused = empty_image(base, base.shape[1])
    if fused.numel():
        with torch.cuda.device_of(base):
            blend[over_image(base)](
                *strided(base), *strided(references), weights.contiguous(), positions.contiguous(),
                matches.contiguous(), *strided(fused), *_size(base, references, positions, grid),
            )  # fmt: skip
    return fused


def backward(
    grad_fused: Tensor,
    base: Tensor,
    references: Tensor,
    weights: Tensor,
    positions: Tensor,
    matches: Tensor,
    grid: Sequence[int],
    need_base: bool,
    need_references: bool,
    need_weights: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The operation ``pyeqgan::lifted_fusion_backward``; (0,) for a gradient that is not needed.

    Raises:
        TypeError: base is of another dtype than float32, bfloat16, float16.
        ValueError: a grid of more cells than an int32 counts.
    """
    check("lifted_fusion_backward", base, grid)
    grad_base = empty_image(base, base.shape[1]) if need_base else base.new_empty(0)
    grad_references = empty_references(base, references) if need_references else base.new_empty(0)
    grad_weights = base.new_zeros(weights.shape if need_weights else 0)
    if base.numel() == 0:
        return grad_base, grad_references, grad_weights
    weights, positions, matches = weights.contiguous(), positions.contiguous(), matches.contiguous()
    size = _size(base, references, positions, grid)
    with torch.cuda.device_of(base):
        if need_base or need_weights:
            programs = max(_programs(base, c.kwargs) for c in blend_backward.configs)
            terms = base.new_empty(programs * weights.shape[1], dtype=torch.float32) if need_weights else None
            blend_backward[over_image(base)](
                *strided(grad_fused), *strided(base), *strided(references), weights, positions, matches,
                *strided(grad_base if need_base else None), terms, *size,
            )  # fmt: skip
            if terms is not None:
                used = _programs(base, blend_backward.best_config.kwargs) * weights.shape[1]
                grad_weights = terms[:used].view(len(base), -1, weights.shape[1]).sum(1).to(base.dtype)
        if need_references and references.numel():
            takers, starts = _takers(positions, matches, grid[0] * grid[1])
            reference_gradient[over_image(grad_references.flatten(0, 1))](
                *strided(grad_fused), weights, takers, starts, *strided(grad_references), *size
            )
    return grad_base, grad_references, grad_weights


def _programs(base: Tensor, tile: dict[str, int]) -> int:
    return len(base) * groups(base, tile["CHANNELS"]) * blocks(base, tile["PIXELS"])


def _takers(positions: Tensor, matches: Tensor, cells: int) -> tuple[Tensor, Tensor]:
    """The positions (B,R,M) in the order of their matches, and where those of each cell begin, (B,R,cells+1)."""
    ascending, order = matches.sort(stable=True)
    takers = positions[:, None].expand(matches.shape).gather(2, order)
    cell = torch.arange(cells + 1, device=matches.device).expand(*matches.shape[:2], -1)
    return takers, torch.searchsorted(ascending, cell.contiguous())
