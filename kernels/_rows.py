"""Rows of features, packed one after the other, and the products of all pairs of them, a tile at a time.

Packed rows are padded with zeros, to whole blocks of rows and to a width that tiles of channels divide: no load of them
needs a mask.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
# The functions under @triton.jit are written in Triton's language; they have no Python types.

import triton
import triton.language as tl

PADDING = 128  # every block of rows has a power of two of them, at most this many
PROGRAMS = 256  # wanted in a launch, where there are too few blocks of rows for that
SEGMENT = 512  # rows of the other side that are worth a program


def width_of(channels: int) -> int:
    """A power of two from 16 to 256, or a multiple of 256: what products over ``channels`` are cut from."""
    return max(16, 1 << (channels - 1).bit_length()) if channels <= 256 else (channels + 255) // 256 * 256


def segments_of(rows: int, others: int) -> tuple[int, int]:
    """How many segments the other side of ``rows`` padded rows is cut into, and how long they are."""
    wanted = min(max(PROGRAMS * PADDING // rows, 1), triton.cdiv(others, SEGMENT))
    span = triton.cdiv(triton.cdiv(others, wanted), PADDING) * PADDING
    return triton.cdiv(others, span), span


@triton.jit
def row_offsets(first, channel, WIDTH: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr):
    """Of some channels of a block of rows, (ROWS,CHANNELS); int64 up to the block, which itself is small."""
    start = tl.cast(first, tl.int64) * WIDTH + channel
    return start + (tl.arange(0, ROWS)[:, None] * WIDTH + tl.arange(0, CHANNELS)[None, :])


@triton.jit
def block_of_rows(values, first, channel, WIDTH: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr):
    """Some channels of a block of rows, (ROWS,CHANNELS)."""
    return tl.load(values + row_offsets(first, channel, WIDTH, ROWS, CHANNELS))


@triton.jit
def products(
    own, first_own, own_block, other, first_other, other_block,
    WIDTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """own·otherᵀ of two blocks of rows, (ROWS,COLUMNS) float32; the blocks are given if they are DEPTH = WIDTH wide."""
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    if DEPTH == WIDTH:
        total = tl.dot(own_block, tl.trans(other_block), total, input_precision=PRECISION)
    else:
        for channel in range(0, WIDTH, DEPTH):
            left = block_of_rows(own, first_own, channel, WIDTH, ROWS, DEPTH)
            right = block_of_rows(other, first_other, channel, WIDTH, COLUMNS, DEPTH)
            total = tl.dot(left, tl.trans(right), total, input_precision=PRECISION)
    return total
