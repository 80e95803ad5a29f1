"""Backward sweep of ``contrastive_loss``: the scores again, G of them, and its product with the rows of the other side.

A program owns a block of rows of one side, some of its channels and one segment of the other side. G_ij is the gradient
of the loss by s_ij; rows of queries gather Σ_j G_ij k_j, those of keys Σ_i G_ij q_i, and in self-contrast one sweep
gathers both: (G + Gᵀ) q.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
# The functions under @triton.jit are written in Triton's language; they have no Python types.

import triton
import triton.language as tl

from pyeqgan.kernels._contrastive_scores import excluded, inverse_root, positive_pairs, scores, tiles_of
from pyeqgan.kernels._rows import block_of_rows, products, row_offsets


@triton.jit
def gradient(s, power, positive, share, shift, pull, mixed: tl.constexpr, SUPCON: tl.constexpr, BOUNDED: tl.constexpr):
    """G of some scores: share·e^(s−B) − [positive]·pull, in per_positive share·e^(s−B) or −pull / (1 + e^(s−B)).

    BOUNDED: power is e^s, shift e^(−B), and share holds this factor too; else shift is B.
    """
    if not BOUNDED:
        power = tl.exp(s - shift)
    g = share * power
    if mixed:
        if SUPCON:
            g = tl.where(positive, g - pull, g)
        else:
            g = tl.where(positive, -pull / (1.0 + (power * shift if BOUNDED else power)), g)
    return g


@triton.jit
def sum_gradients(
    own, own_factors, own_ids, begin, end, own_count, other, other_factors, other_ids, other_count,
    temperature, span, shares, shifts, pulls, sums, padded,
    WIDTH: tl.constexpr, OF_QUERIES: tl.constexpr, OF_KEYS: tl.constexpr, SUPCON: tl.constexpr, BOUNDED: tl.constexpr,
    PRECISION: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Sums (segments,padded,WIDTH) float32 of the rows as OF_QUERIES, OF_KEYS or both.

    Shares, shifts and pulls are those of the queries, padded: the own rows' or the other side's or, where both are
    one, either's.
    """
    depth: tl.constexpr = min(DEPTH, WIDTH)
    first_row = tl.program_id(0) * ROWS
    rows, count = tl.load(own_count).to(tl.int32), tl.load(other_count).to(tl.int32)
    if first_row >= rows:
        return
    row = first_row + tl.arange(0, ROWS)
    root = inverse_root(temperature)
    factor = tl.load(own_factors + row) * root
    channels: tl.constexpr = min(CHANNELS, WIDTH)
    channel = tl.program_id(1) * channels
    first = tl.program_id(2) * span
    stop = first + tl.cdiv(tl.maximum(tl.minimum(span, count - first), 0), COLUMNS) * COLUMNS
    low, high, _, _ = tiles_of(begin, end, first_row, rows, first, stop, ROWS, COLUMNS)
    own_block = None
    if depth == WIDTH:
        own_block = block_of_rows(own, first_row, 0, WIDTH, ROWS, depth)
    if OF_QUERIES:
        share, shift, pull = tl.load(shares + row), tl.load(shifts + row), tl.load(pulls + row)
    total = tl.zeros((ROWS, channels), tl.float32)
    for mixed in tl.static_range(2):  # first the tiles without positives, then the others
        if mixed:
            from_, to, gap, gap_end = low, high, high, high
        else:
            from_, to, gap, gap_end = first, stop, low, high
        for tile in range(from_, to - (gap_end - gap), COLUMNS):
            first_column = tl.where(tile >= gap, tile + (gap_end - gap), tile)
            column = first_column + tl.arange(0, COLUMNS)
            block = None
            if depth == WIDTH:
                block = block_of_rows(other, first_column, 0, WIDTH, COLUMNS, depth)
            s = products(own, first_row, own_block, other, first_column, block, WIDTH, ROWS, COLUMNS, depth, PRECISION)
            s = scores(s, factor, other_factors, root, column, count)
            power = tl.exp(s) if BOUNDED else s
            positive = positive_pairs(row, column, begin, end, rows) if mixed else False
            g = tl.zeros((ROWS, COLUMNS), tl.float32)
            if OF_QUERIES:
                g += gradient(s, power, positive, share[:, None], shift[:, None], pull[:, None], mixed, SUPCON, BOUNDED)
            if OF_KEYS:
                other_share = tl.load(shares + column)[None, :]
                other_shift = tl.load(shifts + column)[None, :]
                other_pull = tl.load(pulls + column)[None, :]
                g += gradient(s, power, positive, other_share, other_shift, other_pull, mixed, SUPCON, BOUNDED)
            if mixed or own_ids is not None:
                out = excluded(row, column, own_ids, other_ids, rows, count, OF_QUERIES and OF_KEYS)
                g = tl.where(out, 0.0, g)
            g *= tl.load(other_factors + column)[None, :]
            if depth != WIDTH or channels != WIDTH:
                block = block_of_rows(other, first_column, channel, WIDTH, COLUMNS, channels)
            total = tl.dot(g.to(other.dtype.element_ty), block, total, input_precision=PRECISION)
    segment = tl.program_id(2).to(tl.int64) * padded
    tl.store(sums + row_offsets(segment + first_row, channel, WIDTH, ROWS, channels), total)
