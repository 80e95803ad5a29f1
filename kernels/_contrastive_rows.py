"""The rows of ``contrastive_loss`` on their way in and out: gathered in the order of their labels, gradients scattered.

Normalised rows keep the dtype they came in. They are divided by a power of two, which loses nothing and keeps their
squares in range, and what is left of their norm multiplies the scores: a product of 16-bit numbers is then exact in
float32, where rounding the normalised rows would cost as much as all the rest.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
# The functions under @triton.jit are written in Triton's language; they have no Python types.

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from pyeqgan.kernels._config import tiled
from pyeqgan.kernels._contrastive_groups import Side
from pyeqgan.kernels._rows import PADDING, width_of

LARGEST_INVERSE = tl.constexpr(1e12)  # rows shorter than 1e-12 are divided by that


class Rows(NamedTuple):
    """The rows of a side in sorted order, zeros after the last that takes part, and at least 16 channels wide."""

    values: Tensor  # (padded,width), a row times `factors` is the (normalised) row
    factors: Tensor  # (padded) float32
    inverses: Tensor  # (padded) float32: 1 / max(‖source row‖, 1e-12), or 1

    @property
    def width(self) -> int:
        """Channels with the padding."""
        return self.values.shape[1]


@tiled("contrastive_rows", ("WIDTH",))
@triton.jit
def gather(
    source, stride_row, stride_channel, order, count, values, factors, inverses, channels,
    WIDTH: tl.constexpr, NORMALIZE: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """A block of sorted rows; those from count on are zeros."""
    step: tl.constexpr = min(CHANNELS, WIDTH)
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = row < tl.load(count)
    line = tl.load(order + row, inside, 0) * stride_row
    factor = tl.full((ROWS,), 1.0, tl.float32)
    inverse = tl.full((ROWS,), 1.0, tl.float32)
    power = tl.full((ROWS,), 1.0, tl.float32)
    shrink = tl.full((ROWS,), 1.0, tl.float32)  # 1 / power
    if NORMALIZE:
        peak = tl.zeros((ROWS,), tl.float32)
        for first in range(0, WIDTH, step):
            c = first + tl.arange(0, step)
            mask = inside[:, None] & (c < channels)[None, :]
            x = tl.load(source + line[:, None] + (c.to(tl.int64) * stride_channel)[None, :], mask, 0.0)
            peak = tl.maximum(peak, tl.max(tl.abs(x.to(tl.float32)), 1))
        # Of the largest number's exponent, but for those of which the inverse is no normal number.
        exponent = tl.minimum(tl.maximum(peak.to(tl.int32, bitcast=True) & 0x7F800000, 1 << 23), 253 << 23)
        power = exponent.to(tl.float32, bitcast=True)
        shrink = ((254 << 23) - exponent).to(tl.float32, bitcast=True)
    squares = tl.zeros((ROWS,), tl.float32)
    for first in range(0, WIDTH, step):
        c = first + tl.arange(0, step)
        mask = inside[:, None] & (c < channels)[None, :]
        x = tl.load(source + line[:, None] + (c.to(tl.int64) * stride_channel)[None, :], mask, 0.0)
        value = x.to(tl.float32) * shrink[:, None]
        squares += tl.sum(value * value, 1)
        tl.store(values + row[:, None] * WIDTH + c[None, :], value.to(x.dtype))
    if NORMALIZE:
        norm = tl.sqrt_rn(squares)
        short = norm * power < 1e-12
        factor = tl.where(short, power * LARGEST_INVERSE, tl.div_rn(1.0, tl.where(short, 1.0, norm)))
        inverse = tl.where(short, LARGEST_INVERSE, factor * shrink)
    tl.store(factors + row, factor)
    tl.store(inverses + row, inverse)


@tiled("contrastive_rows", ("WIDTH",))
@triton.jit
def scatter(
    sums, values, factors, inverses, scale, order, count, target, slopes, channels,
    WIDTH: tl.constexpr, NORMALIZE: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """From sums·scale, the gradients of sorted rows, those of the source (unless None), and slopes = row·gradient."""
    step: tl.constexpr = min(CHANNELS, WIDTH)
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = row < tl.load(count)
    scale = tl.load(scale)
    factor = tl.load(factors + row)
    slope = tl.zeros((ROWS,), tl.float32)
    for first in range(0, WIDTH, step):
        at = row[:, None] * WIDTH + first + tl.arange(0, step)[None, :]
        unit = tl.load(values + at).to(tl.float32) * factor[:, None]
        slope += tl.sum(unit * (tl.load(sums + at, inside[:, None], 0.0) * scale), 1)
    tl.store(slopes + row, slope, inside)
    if target is not None:
        line = tl.load(order + row, inside, 0) * channels
        inverse = tl.load(inverses + row)
        radial = tl.zeros((ROWS,), tl.float32)
        if NORMALIZE:
            radial = tl.where(inverse < LARGEST_INVERSE, slope, 0.0)
        for first in range(0, WIDTH, step):
            c = first + tl.arange(0, step)
            at = row[:, None] * WIDTH + c[None, :]
            unit = tl.load(values + at).to(tl.float32) * factor[:, None]
            grad = tl.load(sums + at, inside[:, None], 0.0) * scale
            grad = (grad - unit * radial[:, None]) * inverse[:, None]
            tl.store(target + line[:, None] + c[None, :], grad, inside[:, None] & (c < channels)[None, :])


def gather_rows(source: Tensor, side: Side, normalize: bool) -> Rows:
    """The rows of ``source`` (·,D), any strides, that take part in a side."""
    padded, width = triton.cdiv(len(source), PADDING) * PADDING, width_of(source.shape[1])
    values = source.new_empty((padded, width))
    factors, inverses = (source.new_empty(padded, dtype=torch.float32) for _ in range(2))
    gather[lambda meta: (padded // meta["ROWS"],)](
        source, *source.stride(), side.order, side.used, values, factors, inverses, source.shape[1],
        WIDTH=width, NORMALIZE=normalize,
    )  # fmt: skip
    return Rows(values, factors, inverses)


def scatter_gradients(
    sums: Tensor, scale: Tensor, rows: Rows, side: Side, target: Tensor | None, normalize: bool
) -> Tensor:
    """Fill ``target`` (·,D) where rows take part; returns Σ rows·gradient over all of them, 0-d.

    Args:
        sums: (padded,width) float32, the gradients of the normalised rows divided by ``scale``.
        scale: 0-d float32.
        rows: as gathered, of ``side``.
        side: where the rows come from.
        target: contiguous, zeros; None if it is not needed.
        normalize: as the rows were gathered.
    """
    slopes = torch.zeros_like(rows.factors)
    scatter[lambda meta: (len(sums) // meta["ROWS"],)](
        sums, *rows, scale, side.order, side.used, target, slopes, 1 if target is None else target.shape[1],
        WIDTH=rows.width, NORMALIZE=normalize,
    )  # fmt: skip
    return slopes.sum(dtype=torch.float64)
