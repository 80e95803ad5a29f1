"""``similarity_loss`` in Triton: all pairs of pixels of an image, a tile at a time, forward and backward.

The pixels are copied to packed rows, zeros where they are ignored. A program owns a block of them and sweeps over the
others of their image; no tensor of pairs exists. Forward, blocks before its own are left to theirs: a pair stands for
both its orders. Probabilities float32, bfloat16 or float16, all sums float32. No atomics; a result depends on no GPU's
size.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
# The functions under @triton.jit are written in Triton's language; they have no Python types.

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from pyeqgan.kernels._image import split
from pyeqgan.kernels._logarithm import surprisal
from pyeqgan.kernels._products import arithmetic, family
from pyeqgan.kernels._rows import PADDING, block_of_rows, products, row_offsets, segments_of, width_of
from pyeqgan.ops._library import empty_image

# How many numbers of a dtype hold one of float32, as which dx is multiplied: where classes are in balance their
# gradients cancel, and one rounding of dx to 16 bits would be most of what is left.
PARTS = {torch.float32: 1, torch.float16: 2, torch.bfloat16: 3}


@triton.jit
def sum_surprisals(
    values, labels, sums, padded, span, ignored, low, high,
    WIDTH: tl.constexpr, PRECISION: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Of each row, over its pairs with the columns of a segment: (segments,images·padded). COLUMNS divides ROWS.

    Pairs with later blocks count twice; all pairs within a block are met in both orders.
    """
    depth: tl.constexpr = min(DEPTH, WIDTH)
    block, image = split(tl.program_id(0).to(tl.int64), padded // ROWS)
    start = image * padded
    first_row = (block * ROWS).to(tl.int32)
    row = start + first_row + tl.arange(0, ROWS)
    row_label = tl.load(labels + row)
    own = None
    if depth == WIDTH:
        own = block_of_rows(values, start + first_row, 0, WIDTH, ROWS, depth)
    total = tl.zeros((ROWS,), tl.float32)
    first = tl.program_id(1) * span
    for column in range(tl.maximum(first, first_row), tl.minimum(first + span, padded), COLUMNS):
        column_label = tl.load(labels + start + column + tl.arange(0, COLUMNS))
        other = None
        if depth == WIDTH:
            other = block_of_rows(values, start + column, 0, WIDTH, COLUMNS, depth)
        x = products(
            values, start + first_row, own, values, start + column, other, WIDTH, ROWS, COLUMNS, depth, PRECISION
        )
        x = tl.where(x < low, low, tl.where(x > high, high, x))  # NaN stays NaN
        equal = row_label[:, None] == column_label[None, :]
        value = surprisal(tl.where(equal, x, 1.0 - x), tl.where(equal, 1.0 - x, x))
        value = tl.where((column_label != ignored)[None, :], value, 0.0)
        total += tl.where(column < first_row + ROWS, 1.0, 2.0) * tl.sum(value, 1)
    all_rows = tl.num_programs(0).to(tl.int64) * ROWS
    tl.store(sums + tl.program_id(1) * all_rows + row, tl.where(row_label != ignored, total, 0.0))


@triton.jit
def sum_gradients(
    values, labels, sums, padded, span, unit, low, high,
    WIDTH: tl.constexpr, PARTS: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Of each row, Σ_n dx_mn p_n · unit over the columns of a segment: (segments,images·padded,WIDTH).

    An ignored pixel is a row of zeros: x = 0 is below the clamp, and dx 0.
    """
    depth: tl.constexpr = min(DEPTH, WIDTH)
    channels: tl.constexpr = min(CHANNELS, WIDTH)
    channel = tl.program_id(1) * channels
    block, image = split(tl.program_id(0).to(tl.int64), padded // ROWS)
    start = image * padded
    first_row = start + block * ROWS
    row_label = tl.load(labels + first_row + tl.arange(0, ROWS))
    own = None
    if depth == WIDTH:
        own = block_of_rows(values, first_row, 0, WIDTH, ROWS, depth)
    total = tl.zeros((ROWS, channels), tl.float32)
    first = tl.program_id(2) * span
    for column in range(first, tl.minimum(first + span, padded), COLUMNS):
        column_label = tl.load(labels + start + column + tl.arange(0, COLUMNS))
        other = None
        if depth == WIDTH:
            other = block_of_rows(values, start + column, 0, WIDTH, COLUMNS, depth)
        x = products(values, first_row, own, values, start + column, other, WIDTH, ROWS, COLUMNS, depth, PRECISION)
        equal = row_label[:, None] == column_label[None, :]
        dx = tl.where(equal, -unit, unit) / tl.where(equal, x, 1.0 - x)
        dx = tl.where((x < low) | (x > high), 0.0, dx)
        if depth != WIDTH or channels != WIDTH:
            other = block_of_rows(values, start + column, channel, WIDTH, COLUMNS, channels)
        for _ in tl.static_range(PARTS):
            part = dx.to(values.dtype.element_ty)
            total = tl.dot(part, other, total, input_precision=PRECISION)
            dx -= part.to(tl.float32)
    all_rows = tl.num_programs(0).to(tl.int64) * ROWS
    tl.store(sums + row_offsets(tl.program_id(2) * all_rows + first_row, channel, WIDTH, ROWS, channels), total)


# As those of contrastive_loss their tiles were chosen by what they compile to, and never timed.
SIZE = ("padded", "WIDTH")
SUM_SURPRISALS = family("similarity_forward", SIZE, sum_surprisals)
SUM_GRADIENTS = family("similarity_backward", SIZE, sum_gradients)


class _Problem(NamedTuple):
    """The pixels of all images as rows, and what both directions share."""

    values: Tensor  # (B,padded,width), zeros where a pixel is ignored and after the last
    labels: Tensor  # (B,padded) int64, ignore_index after the last
    valid: Tensor  # (B,pixels)
    shares: Tensor  # (B) float64: 1 / (pairs · images that count), 0 of an image that does not
    products: str
    options: dict[str, Any]

    def blocks(self, meta: dict[str, int]) -> int:
        """Of rows, in all images."""
        return self.labels.numel() // meta["ROWS"]


def _prepare(op: str, probabilities: Tensor, labels: Tensor, ignore_index: int) -> _Problem:
    products, precision = arithmetic(op, "probabilities", probabilities.dtype)
    batch, channels, pixels = probabilities.flatten(2).shape
    if pixels > 2**31 - PADDING:
        raise ValueError(f"{op} (Triton): labels: expected at most {2**31 - PADDING} pixels an image, got {pixels}")
    padded, width = triton.cdiv(pixels, PADDING) * PADDING, width_of(channels)
    flat = labels.flatten(1)
    valid = flat != ignore_index
    values = probabilities.new_zeros(batch, padded, width)
    values[:, :pixels, :channels] = probabilities.flatten(2).mT.where(valid[..., None], 0)
    padded_labels = flat.new_full((batch, padded), ignore_index)
    padded_labels[:, :pixels] = flat
    counts = valid.sum(1).double()
    shares = (counts > 0) / (counts.square().clamp_min(1) * (counts > 0).sum().clamp_min(1))
    return _Problem(values, padded_labels, valid, shares, products, {"WIDTH": width, "PRECISION": precision})


def forward(probabilities: Tensor, labels: Tensor, ignore_index: int, eps: float) -> Tensor:
    """The operation ``pyeqgan::similarity_loss``: 0-d float32.

    Raises:
        TypeError: probabilities are of another dtype than float32, bfloat16, float16.
        ValueError: more pixels than an int32 counts.
    """
    with torch.cuda.device_of(probabilities):
        p = _prepare("similarity_loss", probabilities, labels, ignore_index)
        if p.labels.numel() == 0:
            return probabilities.new_zeros((), dtype=torch.float32)
        padded = p.labels.shape[1]
        segments, span = segments_of(p.labels.numel(), padded)
        sums = p.values.new_empty(segments, *p.labels.shape, dtype=torch.float32)
        SUM_SURPRISALS[p.products][lambda meta: (p.blocks(meta), segments)](
            p.values, p.labels, sums, padded, span, ignore_index, eps, 1 - eps, **p.options
        )
        return (sums.sum((0, 2), dtype=torch.float64) * p.shares).sum().float()


def backward(grad_loss: Tensor, probabilities: Tensor, labels: Tensor, ignore_index: int, eps: float) -> Tensor:
    """The operation ``pyeqgan::similarity_loss_backward``.

    Raises:
        TypeError: probabilities are of another dtype than float32, bfloat16, float16.
        ValueError: more pixels than an int32 counts.
    """
    grad = empty_image(probabilities, probabilities.shape[1])
    with torch.cuda.device_of(probabilities):
        p = _prepare("similarity_loss_backward", probabilities, labels, ignore_index)
        if grad.numel() == 0:
            return grad
        _, padded, width = p.values.shape
        segments, span = segments_of(p.labels.numel(), padded)
        sums = p.values.new_empty(segments, *p.values.shape, dtype=torch.float32)
        unit = 2.0 ** math.floor(math.log2(2**15 * eps))  # dx is at most 1/eps, float16 at most 2¹⁶
        SUM_GRADIENTS[p.products][lambda meta: (p.blocks(meta), triton.cdiv(width, meta["CHANNELS"]), segments)](
            p.values, p.labels, sums, padded, span, unit, eps, 1 - eps,
            PARTS=PARTS[probabilities.dtype], **p.options,
        )  # fmt: skip
        scales = (2 * grad_loss * p.shares / unit).float()
        slopes = sums[..., : p.valid.shape[1], : grad.shape[1]].sum(0) * scales[:, None, None]
        grad.copy_(slopes.where(p.valid[..., None], 0).mT.reshape(grad.shape))
    return grad
