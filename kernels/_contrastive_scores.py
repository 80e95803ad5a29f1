"""The scores of ``contrastive_loss``: computed a tile at a time, used and forgotten. Never an M×N tensor.

A program owns a block of sorted rows and sweeps over those of the other side in tiles. The labels being sorted, the
positives of a block lie within one range of tiles: the others are swept without looking at a label, and those in which
every pair is positive can be left out.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
# The functions under @triton.jit are written in Triton's language; they have no Python types.

import triton
import triton.language as tl


@triton.jit
def inverse_root(temperature):
    """1/√τ, which multiplies the factors of both sides."""
    return tl.div_rn(1.0, tl.sqrt_rn(tl.load(temperature)))


@triton.jit
def scores(dot, own, factors, root, column, count):
    """Of products; own are the factors of the rows times root. −∞ at columns that take no part.

    What multiplies a product is symmetric in both rows: a score is the same number in every sweep, or where it is large
    e^(s − B) would not be.
    """
    outside = tl.where(column < count, 0.0, float("-inf"))
    return dot * (own[:, None] * (tl.load(factors + column) * root)[None, :]) + outside[None, :]


@triton.jit
def tiles_of(begin, end, first_row, own_count, first, stop, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Which tiles of [first, stop) hold positives of a block of rows: [low, high), all of them in [inner, outer)."""
    last_row = tl.minimum(first_row + ROWS, own_count.to(tl.int32)) - 1
    low = tl.load(begin + first_row) // COLUMNS * COLUMNS
    high = tl.cdiv(tl.load(end + last_row), COLUMNS) * COLUMNS
    inner = tl.cdiv(tl.load(begin + last_row), COLUMNS) * COLUMNS
    outer = tl.load(end + first_row) // COLUMNS * COLUMNS
    low, high = tl.minimum(tl.maximum(low, first), stop), tl.minimum(tl.maximum(high, first), stop)
    inner = tl.minimum(tl.maximum(inner, low), high)
    return low, high, inner, tl.minimum(tl.maximum(outer, inner), high)


@triton.jit
def excluded(row, column, own_ids, other_ids, own_count, other_count, SINGLE: tl.constexpr):
    """Pairs of one id; without ids, in self-contrast, of one place."""
    if own_ids is not None:
        own = tl.load(own_ids + row, row < own_count, -1)
        other = tl.load(other_ids + column, column < other_count, -1)
        return own[:, None] == other[None, :]
    return (row[:, None] == column[None, :]) & SINGLE


@triton.jit
def positive_pairs(row, column, begin, end, count):
    """Pairs of one label, by the ranges of the rows."""
    low = tl.load(begin + row, row < count, 0)
    high = tl.load(end + row, row < count, 0)
    return (column[None, :] >= low[:, None]) & (column[None, :] < high[:, None])
