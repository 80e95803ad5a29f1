"""Forward sweeps of ``contrastive_loss``: the log-sum-exp of every query, then the sums over its positives.

A program owns a block of queries and one segment of the keys; segments are added by the caller, in order.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
# The functions under @triton.jit are written in Triton's language; they have no Python types.

import triton
import triton.language as tl

from pyeqgan.kernels._contrastive_scores import excluded, inverse_root, positive_pairs, scores, tiles_of
from pyeqgan.kernels._logarithm import log1p
from pyeqgan.kernels._rows import block_of_rows, products


@triton.jit
def sum_exponentials(
    queries, query_factors, query_ids, begin, end, query_count, keys, key_factors, key_ids, key_count,
    temperature, span, boundary, score_sums, padded,
    WIDTH: tl.constexpr, SUPCON: tl.constexpr, SINGLE: tl.constexpr, BOUNDED: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Boundary = logsumexp over the negatives, in supcon over all valid keys, and score_sums = Σ_P s (segments,padded).

    BOUNDED: the exponentials of the scores themselves neither overflow nor vanish, so that no maximum is subtracted.
    """
    depth: tl.constexpr = min(DEPTH, WIDTH)
    first_row = tl.program_id(0) * ROWS
    own_count, count = tl.load(query_count).to(tl.int32), tl.load(key_count).to(tl.int32)
    if first_row >= own_count:
        return
    row = first_row + tl.arange(0, ROWS)
    root = inverse_root(temperature)
    factor = tl.load(query_factors + row) * root
    first = tl.program_id(1) * span
    stop = first + tl.cdiv(tl.maximum(tl.minimum(span, count - first), 0), COLUMNS) * COLUMNS
    low, high, inner, outer = tiles_of(begin, end, first_row, own_count, first, stop, ROWS, COLUMNS)
    if SUPCON:
        outer = inner  # positives count, too
    own = None
    if depth == WIDTH:
        own = block_of_rows(queries, first_row, 0, WIDTH, ROWS, depth)
    maximum = tl.full((ROWS,), -3e38, tl.float32)  # finite: −∞ less it is no NaN
    total = tl.zeros((ROWS,), tl.float32)
    positive_sum = tl.zeros((ROWS,), tl.float32)
    for mixed in tl.static_range(2):  # first the tiles without positives, then the others
        if mixed:
            from_, to, gap, gap_end = low, high, inner, outer
        else:
            from_, to, gap, gap_end = first, stop, low, high
        for tile in range(from_, to - (gap_end - gap), COLUMNS):
            first_column = tl.where(tile >= gap, tile + (gap_end - gap), tile)
            column = first_column + tl.arange(0, COLUMNS)
            other = None
            if depth == WIDTH:
                other = block_of_rows(keys, first_column, 0, WIDTH, COLUMNS, depth)
            s = products(queries, first_row, own, keys, first_column, other, WIDTH, ROWS, COLUMNS, depth, PRECISION)
            s = scores(s, factor, key_factors, root, column, count)
            if mixed or query_ids is not None:
                out = excluded(row, column, query_ids, key_ids, own_count, count, SINGLE)
                if mixed:
                    positive = positive_pairs(row, column, begin, end, own_count)
                    if SUPCON:
                        positive_sum += tl.sum(tl.where(positive & ~out, s, 0.0), 1)
                    else:
                        out = out | positive
                s = tl.where(out, float("-inf"), s)
            if BOUNDED:
                total += tl.sum(tl.exp(s), 1)
            else:
                raised = tl.maximum(maximum, tl.max(s, 1))
                total = total * tl.exp(maximum - raised) + tl.sum(tl.exp(s - raised[:, None]), 1)
                maximum = raised
    at = tl.program_id(1).to(tl.int64) * padded + row
    value = tl.log(total)
    if not BOUNDED:
        value += maximum
    tl.store(boundary + at, value)
    if SUPCON:
        tl.store(score_sums + at, positive_sum)


@triton.jit
def sum_positives(
    queries, query_factors, query_ids, begin, end, query_count, keys, key_factors, key_ids, key_count,
    temperature, span, boundary, losses, weights, padded,
    WIDTH: tl.constexpr, SINGLE: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Losses = Σ_P softplus(B − s) and weights = Σ_P sigmoid(B − s), (segments,padded) each; per_positive only."""
    depth: tl.constexpr = min(DEPTH, WIDTH)
    first_row = tl.program_id(0) * ROWS
    own_count, count = tl.load(query_count).to(tl.int32), tl.load(key_count).to(tl.int32)
    if first_row >= own_count:
        return
    row = first_row + tl.arange(0, ROWS)
    root = inverse_root(temperature)
    factor = tl.load(query_factors + row) * root
    shift = tl.load(boundary + row)
    first = tl.program_id(1) * span
    stop = first + tl.cdiv(tl.maximum(tl.minimum(span, count - first), 0), COLUMNS) * COLUMNS
    low, high, _, _ = tiles_of(begin, end, first_row, own_count, first, stop, ROWS, COLUMNS)
    own = None
    if depth == WIDTH:
        own = block_of_rows(queries, first_row, 0, WIDTH, ROWS, depth)
    linear = tl.zeros((ROWS,), tl.float32)
    curved = tl.zeros((ROWS,), tl.float32)
    slope = tl.zeros((ROWS,), tl.float32)
    for first_column in range(low, high, COLUMNS):
        column = first_column + tl.arange(0, COLUMNS)
        other = None
        if depth == WIDTH:
            other = block_of_rows(keys, first_column, 0, WIDTH, COLUMNS, depth)
        s = products(queries, first_row, own, keys, first_column, other, WIDTH, ROWS, COLUMNS, depth, PRECISION)
        s = scores(s, factor, key_factors, root, column, count)
        positive = positive_pairs(row, column, begin, end, own_count)
        positive &= ~excluded(row, column, query_ids, key_ids, own_count, count, SINGLE)
        margin = tl.where(positive, shift[:, None] - s, float("-inf"))
        x = tl.exp(-tl.abs(margin))
        linear += tl.sum(tl.maximum(margin, 0.0), 1)
        curved += tl.sum(log1p(x), 1)
        slope += tl.sum(tl.where(margin > 0.0, 1.0, x) / (1.0 + x), 1)
    at = tl.program_id(1).to(tl.int64) * padded + row
    tl.store(losses + at, linear + curved)
    tl.store(weights + at, slope)
