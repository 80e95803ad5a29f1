"""``bilateral_propagation`` in Triton: the maths of ops.md section 2, forward and backward.

A program owns a block of channels x pixels and reads the neighbours it needs through the L1 cache; the rows of the
Gaussian go through a float32 scratch tensor. Every tensor may have any strides, so both memory formats are read and
written in place. float32, bfloat16 and float16; all arithmetic in float32; no atomics.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
# The functions under @triton.jit are written in Triton's language; they have no Python types.

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from pyeqgan.kernels._config import tiled
from pyeqgan.kernels._image import block_pixels, offsets, split
from pyeqgan.kernels._launch import over_image, over_pixels, strided
from pyeqgan.kernels._products import DTYPES
from pyeqgan.ops._library import empty_image

SIZE = ("channels", "height", "width")


@triton.jit
def gate_column(gate, image, channel, channels):
    """The gate of some channels as a column, 1 where there is none."""
    if gate is None:
        return tl.full((channel.shape[0], 1), 1.0, tl.float32)
    return tl.load(gate + image * channels + channel, channel < channels, 0.0).to(tl.float32)[:, None]


@triton.jit
def filter_line(source, step, inverse, i, extent, mask, sigma, reach, TRANSPOSED: tl.constexpr):
    """Σ_j A_ij source_j along a line, or with A transposed; ``source`` points at j = 0, mask is (channels, pixels)."""
    total = tl.zeros(mask.shape, tl.float32)
    for d in range(-reach, reach + 1):
        distance = d / sigma
        j = i + d
        reached = (j >= 0) & (j < extent)
        value = tl.load(source + (j.to(tl.int64) * step)[None, :], mask & reached[None, :], 0.0).to(tl.float32)
        if TRANSPOSED:
            value *= tl.load(inverse + j, reached, 0.0)[None, :]
        total += tl.exp(-0.5 * distance * distance) * value
    if not TRANSPOSED:
        total *= tl.load(inverse + i, i < extent, 0.0)[None, :]
    return total


@triton.jit
def inverse_sums(inverse, extent, sigma, reach, BLOCK: tl.constexpr):
    """1 / Σ_j exp(−(i−j)²/2σ²) over the j of the map within reach, for every i."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for d in range(-reach, reach + 1):
        distance = d / sigma
        total += tl.where((i + d >= 0) & (i + d < extent), tl.exp(-0.5 * distance * distance), 0.0)
    inside = i < extent
    tl.store(inverse + i, 1.0 / tl.where(inside, total, 1.0), inside)


@tiled("bilateral_correlate", SIZE)
@triton.jit
def correlate(
    grad_y, grad_b, grad_c, grad_h, grad_w, x, x_b, x_c, x_h, x_w, gate, affinity, slope, channels, height, width,
    CHANNELS: tl.constexpr, PIXELS: tl.constexpr,
):  # fmt: skip
    """The affinity (grad_y None), or from it and grad_y slope = dz/C; (B,9,H,W), the 9 padded to 16 in registers."""
    pixels = tl.cast(height, tl.int64) * width
    block, image = split(tl.program_id(0).to(tl.int64), tl.cdiv(pixels, PIXELS))
    y, x_, inside = block_pixels(block, height, width, PIXELS)
    n = tl.arange(0, 16)[:, None]
    ny, nx = y[None, :] + n // 3 - 1, x_[None, :] + n % 3 - 1
    linked = inside[None, :] & (n < 9) & (ny >= 0) & (ny < height) & (nx >= 0) & (nx < width)
    shift = ny.to(tl.int64) * x_h + nx.to(tl.int64) * x_w
    z = tl.zeros((16, PIXELS), tl.float32)
    for first in range(0, channels, CHANNELS):
        c = first + tl.arange(0, CHANNELS)
        factor = gate_column(gate, image, c, channels)
        here = (c < channels)[:, None] & inside[None, :]
        there = (c < channels)[None, :, None] & linked[:, None, :]
        line = (image * x_b + c.to(tl.int64) * x_c)[None, :, None]
        v = tl.load(x + line + shift[:, None, :], there, 0.0).to(tl.float32) * factor[None, :, :]
        if grad_y is None:
            own = tl.load(x + offsets(image, c, y, x_, x_b, x_c, x_h, x_w), here, 0.0).to(tl.float32) * factor
            own = tl.sigmoid(own)
            v = tl.where(there, tl.sigmoid(v), 0.0)
        else:
            grad = grad_y + tl.cast(channels, tl.int64) * grad_c  # of the range half
            own = tl.load(grad + offsets(image, c, y, x_, grad_b, grad_c, grad_h, grad_w), here, 0.0).to(tl.float32)
        z += tl.sum(own[None, :, :] * v, 1)
    z /= channels
    at = (image * 9 + n) * pixels + (y.to(tl.int64) * width + x_)[None, :]
    valid = (n < 9) & inside[None, :]
    if grad_y is None:
        e = tl.where(n < 9, tl.exp(z - tl.max(tl.where(n < 9, z, float("-inf")), 0)[None, :]), 0.0)
        tl.store(affinity + at, e / tl.sum(e, 0)[None, :], valid)
    else:
        a = tl.load(affinity + at, valid, 0.0)
        tl.store(slope + at, a * (z - tl.sum(a * z, 0)[None, :]), valid)


@tiled("bilateral_rows", SIZE)
@triton.jit
def filter_rows(
    source, source_b, source_c, source_h, source_w, gate, inverse_x, scratch,
    channels, height, width, sigma, reach, TRANSPOSED: tl.constexpr, CHANNELS: tl.constexpr, PIXELS: tl.constexpr,
):  # fmt: skip
    """Into scratch (B,C,H,W) float32: source A_Wᵀ times the gate, or (transposed) source A_W."""
    pixels = tl.cast(height, tl.int64) * width
    block, rest = split(tl.program_id(0).to(tl.int64), tl.cdiv(pixels, PIXELS))
    group, image = split(rest, tl.cdiv(channels, CHANNELS))
    y, x, inside = block_pixels(block, height, width, PIXELS)
    c = (group * CHANNELS).to(tl.int32) + tl.arange(0, CHANNELS)
    mask = (c < channels)[:, None] & inside[None, :]
    line = source + offsets(image, c, y, tl.zeros_like(x), source_b, source_c, source_h, source_w)
    total = filter_line(line, source_w, inverse_x, x, width, mask, sigma, reach, TRANSPOSED)
    if not TRANSPOSED:
        total *= gate_column(gate, image, c, channels)
    tl.store(scratch + offsets(image, c, y, x, channels * pixels, pixels, width, 1), total, mask)


@tiled("bilateral_forward", SIZE)
@triton.jit
def propagate_forward(
    x, x_b, x_c, x_h, x_w, gate, affinity, inverse_y, scratch, y, y_b, y_c, y_h, y_w,
    channels, height, width, sigma, reach, CHANNELS: tl.constexpr, PIXELS: tl.constexpr,
):  # fmt: skip
    """Both halves of y: A_H scratch, and the 3x3 neighbours of v weighted by affinity."""
    pixels = tl.cast(height, tl.int64) * width
    block, rest = split(tl.program_id(0).to(tl.int64), tl.cdiv(pixels, PIXELS))
    group, image = split(rest, tl.cdiv(channels, CHANNELS))
    row, column, inside = block_pixels(block, height, width, PIXELS)
    c = (group * CHANNELS).to(tl.int32) + tl.arange(0, CHANNELS)
    mask = (c < channels)[:, None] & inside[None, :]
    line = scratch + offsets(image, c, tl.zeros_like(row), column, channels * pixels, pixels, width, 1)
    spatial = filter_line(line, width, inverse_y, row, height, mask, sigma, reach, False)
    at = affinity + image * 9 * pixels + row.to(tl.int64) * width + column
    ranged = tl.zeros((CHANNELS, PIXELS), tl.float32)
    for n in tl.static_range(9):
        ny, nx = row + n // 3 - 1, column + n % 3 - 1
        linked = inside & (ny >= 0) & (ny < height) & (nx >= 0) & (nx < width)
        value = tl.load(x + offsets(image, c, ny, nx, x_b, x_c, x_h, x_w), mask & linked[None, :], 0.0)
        ranged += tl.load(at + n * pixels, linked, 0.0)[None, :] * value.to(tl.float32)
    ranged *= gate_column(gate, image, c, channels)
    target = y + offsets(image, c, row, column, y_b, y_c, y_h, y_w)
    tl.store(target, spatial, mask)
    tl.store(target + tl.cast(channels, tl.int64) * y_c, ranged, mask)


@tiled("bilateral_backward", SIZE)
@triton.jit
def propagate_backward(
    grad_y, grad_b, grad_c, grad_h, grad_w, x, x_b, x_c, x_h, x_w, gate, affinity, slope, inverse_y, scratch,
    grad_x, out_b, out_c, out_h, out_w, gate_terms, channels, height, width, sigma, reach,
    CHANNELS: tl.constexpr, PIXELS: tl.constexpr,
):  # fmt: skip
    """grad_x = gate dv (unless None), and the programs' shares of Σ dv x in gate_terms (B,C,blocks) (unless None)."""
    pixels = tl.cast(height, tl.int64) * width
    blocks = tl.cdiv(pixels, PIXELS)
    block, rest = split(tl.program_id(0).to(tl.int64), blocks)
    group, image = split(rest, tl.cdiv(channels, CHANNELS))
    row, column, inside = block_pixels(block, height, width, PIXELS)
    c = (group * CHANNELS).to(tl.int32) + tl.arange(0, CHANNELS)
    mask = (c < channels)[:, None] & inside[None, :]
    line = scratch + offsets(image, c, tl.zeros_like(row), column, channels * pixels, pixels, width, 1)
    dv = filter_line(line, width, inverse_y, row, height, mask, sigma, reach, True)
    factor = gate_column(gate, image, c, channels)
    ranged = grad_y + tl.cast(channels, tl.int64) * grad_c
    own = image * 9 * pixels + row.to(tl.int64) * width + column
    pull = tl.zeros((CHANNELS, PIXELS), tl.float32)
    for n in tl.static_range(9):
        ny, nx = row + n // 3 - 1, column + n % 3 - 1
        linked = inside & (ny >= 0) & (ny < height) & (nx >= 0) & (nx < width)
        there = mask & linked[None, :]
        back = image * 9 * pixels + (8 - n) * pixels + ny.to(tl.int64) * width + nx
        grad = tl.load(ranged + offsets(image, c, ny, nx, grad_b, grad_c, grad_h, grad_w), there, 0.0)
        v = tl.load(x + offsets(image, c, ny, nx, x_b, x_c, x_h, x_w), there, 0.0).to(tl.float32) * factor
        mutual = tl.load(slope + own + n * pixels, linked, 0.0) + tl.load(slope + back, linked, 0.0)
        dv += tl.load(affinity + back, linked, 0.0)[None, :] * grad.to(tl.float32)
        pull += mutual[None, :] * tl.where(there, tl.sigmoid(v), 0.0)
    value = tl.load(x + offsets(image, c, row, column, x_b, x_c, x_h, x_w), mask, 0.0).to(tl.float32)
    s = tl.sigmoid(value * factor)
    dv += s * (1.0 - s) * pull
    if grad_x is not None:
        tl.store(grad_x + offsets(image, c, row, column, out_b, out_c, out_h, out_w), dv * factor, mask)
    if gate_terms is not None:
        share = tl.sum(tl.where(mask, dv * value, 0.0), 1)
        tl.store(gate_terms + (image * channels + c) * blocks + block, share, c < channels)


def _inverse_sums(x: Tensor, extent: int, sigma: float, reach: int) -> Tensor:
    inverse = x.new_empty(extent, dtype=torch.float32)
    inverse_sums[(triton.cdiv(extent, 128),)](inverse, extent, sigma, reach, BLOCK=128)
    return inverse


def _prepare(x: Tensor, sigma: float, radius: int) -> tuple[Tensor, Tensor, int]:
    """The reciprocal row sums of A_H and A_W, and the radius cut to the map."""
    height, width = x.shape[2:]
    reach = min(radius, max(height, width) - 1)
    return _inverse_sums(x, height, sigma, reach), _inverse_sums(x, width, sigma, reach), reach


def _check(op: str, x: Tensor) -> None:
    if x.dtype not in DTYPES:
        raise TypeError(f"{op} (Triton): x: expected float32, bfloat16 or float16, got {x.dtype}")


def affinity_of(x: Tensor, gate: Tensor | None) -> Tensor:
    """The softmax weights (B,9,H,W) float32 of the range term."""
    batch, channels, height, width = x.shape
    affinity = x.new_empty((batch, 9, height, width), dtype=torch.float32)
    if affinity.numel():
        no_grad = (None, 0, 0, 0, 0)
        correlate[over_pixels(x)](*no_grad, *strided(x), gate, affinity, None, channels, height, width)
    return affinity


def filtered_rows(x: Tensor, gate: Tensor | None, sigma: float, radius: int) -> tuple[Tensor, Tensor, int]:
    """Of v, v A_Wᵀ (B,C,H,W) float32, and what the columns need: the reciprocal row sums of A_H and the reach."""
    inverse_y, inverse_x, reach = _prepare(x, sigma, radius)
    scratch = x.new_empty(x.shape, dtype=torch.float32)
    filter_rows[over_image(x)](*strided(x), gate, inverse_x, scratch, *x.shape[1:], sigma, reach, TRANSPOSED=False)
    return scratch, inverse_y, reach


def propagate(x: Tensor, gate: Tensor | None, affinity: Tensor, sigma: float, radius: int) -> Tensor:
    """Y (B,2C,H,W), like x."""
    y = empty_image(x, 2 * x.shape[1])
    if affinity.numel() and x.shape[1]:
        scratch, inverse_y, reach = filtered_rows(x, gate, sigma, radius)
        propagate_forward[over_image(x)](
            *strided(x), gate, affinity, inverse_y, scratch, *strided(y), *x.shape[1:], sigma, reach
        )
    return y


def forward(x: Tensor, gate: Tensor | None, sigma: float, radius: int) -> tuple[Tensor, Tensor]:
    """The operation ``pyeqgan::bilateral_propagation``: y (B,2C,H,W) like x, affinity (B,9,H,W) float32.

    Raises:
        TypeError: x is of another dtype than float32, bfloat16, float16.
    """
    _check("bilateral_propagation", x)
    gate = None if gate is None else gate.contiguous()
    with torch.cuda.device_of(x):
        affinity = affinity_of(x, gate)
        return propagate(x, gate, affinity, sigma, radius), affinity


def backward(
    grad_y: Tensor,
    x: Tensor,
    gate: Tensor | None,
    affinity: Tensor,
    sigma: float,
    radius: int,
    need_x: bool,
    need_gate: bool,
) -> tuple[Tensor, Tensor]:
    """The operation ``pyeqgan::bilateral_propagation_backward``: grad_x like x, grad_gate (B,C); (0,) if not needed.

    Raises:
        TypeError: x is of another dtype than float32, bfloat16, float16.
    """
    _check("bilateral_propagation_backward", x)
    batch, channels, height, width = x.shape
    grad_x = empty_image(x, channels) if need_x else x.new_empty(0)
    grad_gate = x.new_zeros((batch, channels) if need_gate else (0,))
    if affinity.numel() == 0 or not (need_x or need_gate):
        return grad_x, grad_gate
    gate, affinity = None if gate is None else gate.contiguous(), affinity.contiguous()
    size = (channels, height, width)
    with torch.cuda.device_of(x):
        inverse_y, inverse_x, reach = _prepare(x, sigma, radius)
        slope = torch.empty_like(affinity)
        scratch = x.new_empty(x.shape, dtype=torch.float32)
        correlate[over_pixels(x)](*strided(grad_y), *strided(x), gate, affinity, slope, *size)
        filter_rows[over_image(x)](*strided(grad_y), None, inverse_x, scratch, *size, sigma, reach, TRANSPOSED=True)
        most = triton.cdiv(height * width, min(c.kwargs["PIXELS"] for c in propagate_backward.configs))
        terms = x.new_empty(batch * channels * most, dtype=torch.float32) if need_gate else None
        propagate_backward[over_image(x)](
            *strided(grad_y), *strided(x), gate, affinity, slope, inverse_y, scratch,
            *(strided(grad_x) if need_x else (None, 0, 0, 0, 0)), terms,
            *size, sigma, reach,
        )  # fmt: skip
    if terms is not None:
        blocks = triton.cdiv(height * width, propagate_backward.best_config.kwargs["PIXELS"])
        grad_gate = terms[: batch * channels * blocks].view(batch, channels, blocks).sum(2).to(x.dtype)
    return grad_x, grad_gate
