"""``contrastive_loss`` in Triton: the maths of ops.md section 5, forward and backward.

Rows are sorted by label and gathered, scores are computed in tiles and forgotten, statistics streamed; the backward
computes them again, once for each side. Features float32, bfloat16 or float16, all sums and statistics float32.
No atomics; a result depends on no GPU's size.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from pyeqgan.kernels import _contrastive_backward, _contrastive_forward
from pyeqgan.kernels._contrastive_groups import Groups, group_rows
from pyeqgan.kernels._contrastive_rows import Rows, gather_rows, scatter_gradients
from pyeqgan.kernels._products import arithmetic, family
from pyeqgan.kernels._rows import PADDING, segments_of

BOUND = 32.0  # largest |score| whose exponentials are summed as they are

# Their tiles were chosen by what they compile to, and never timed. Two warpgroups share a block of 128 rows that stays
# in shared memory as long as the sweep, where its width allows it. 16 bits: tiles of 64 columns, of which wgmma reads
# both factors as fast as it multiplies them; backward, 128 channels of the sums a program, since 256 leave registers
# for tiles of 32 columns only. tf32: tiles of half the size. IEEE arithmetic multiplies in registers: a small DEPTH.
SIZE = ("padded", "WIDTH")
SUM_EXPONENTIALS, SUM_POSITIVES, SUM_GRADIENTS = (
    family(f"contrastive_{name}", SIZE, kernel)
    for name, kernel in (
        ("forward", _contrastive_forward.sum_exponentials),
        ("positives", _contrastive_forward.sum_positives),
        ("backward", _contrastive_backward.sum_gradients),
    )
)


class _Problem(NamedTuple):
    """What both directions share."""

    groups: Groups
    queries: Rows
    keys: Rows
    temperature: Tensor  # 0-d float32, on the device
    bounded: bool
    products: str
    precision: str

    @property
    def single(self) -> bool:
        """Whether the queries contrast with each other."""
        return self.keys is self.queries


def _prepare(
    op: str, queries: Tensor, query_labels: Tensor, keys: Tensor | None, key_labels: Tensor | None,
    temperature: Tensor, normalize: bool, ignore_index: int, query_ids: Tensor | None, key_ids: Tensor | None,
) -> _Problem:  # fmt: skip
    products, precision = arithmetic(op, "queries", queries.dtype)
    rows = max(len(queries), 0 if keys is None else len(keys))
    if rows > 2**31 - PADDING:
        raise ValueError(f"{op} (Triton): queries, keys: expected at most {2**31 - PADDING} rows, got {rows}")
    bounded = False
    if temperature.device.type == "cpu":
        # Of a temperature on the GPU nothing is known here: looking at it would synchronise.
        bounded = normalize and 1 / temperature.item() <= BOUND
        temperature = queries.new_full((), temperature.item(), dtype=torch.float32)
    groups = group_rows(query_labels, key_labels, ignore_index, query_ids, key_ids)
    query_rows = gather_rows(queries, groups.queries, normalize)
    key_rows = query_rows if keys is None else gather_rows(keys, groups.keys, normalize)
    return _Problem(groups, query_rows, key_rows, temperature, bounded, products, precision)


def forward(
    queries: Tensor,
    query_labels: Tensor,
    keys: Tensor | None,
    key_labels: Tensor | None,
    temperature: Tensor,
    mode: str,
    normalize: bool,
    ignore_index: int,
    query_ids: Tensor | None,
    key_ids: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The operation ``pyeqgan::contrastive_loss``: loss, boundary, weight (M) float32 and count (M) int64.

    Raises:
        TypeError: queries are of another dtype than float32, bfloat16, float16.
        ValueError: more rows than an int32 counts.
    """
    loss, weight = (queries.new_zeros(len(queries), dtype=torch.float32) for _ in range(2))
    boundary = torch.full_like(loss, float("-inf"))
    with torch.cuda.device_of(queries):
        if min(len(queries), len(queries if keys is None else keys)) == 0:
            return loss, boundary, weight, torch.zeros_like(query_labels)
        p = _prepare(
            "contrastive_loss", queries, query_labels, keys, key_labels, temperature, normalize, ignore_index,
            query_ids, key_ids,
        )  # fmt: skip
        order, count = p.groups.queries.order, p.groups.positives
        sorted_boundary, sorted_loss, sorted_weight = _sums(p, mode == "supcon")
        boundary[order] = sorted_boundary[: len(order)]
        weight[order] = sorted_weight[: len(order)]
        loss[order] = sorted_loss[: len(order)]
        loss /= count.clamp_min(1)
        if mode == "supcon":
            loss = torch.where(count > 0, boundary - loss, 0.0)
    return loss, boundary, weight, count


def _sums(p: _Problem, supcon: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Of every sorted query, padded: B; Σ_P s in supcon, else Σ_P softplus(B − s); and Σ_P sigmoid(B − s), else 0."""
    padded = len(p.queries.factors)
    segments, span = segments_of(padded, len(p.groups.keys.order))
    partial = p.queries.factors.new_zeros(3, segments, padded)
    partial[0] = float("-inf")
    sides = (
        *p.queries[:2], p.groups.queries.ids, p.groups.queries.begin, p.groups.queries.end, p.groups.queries.used,
        *p.keys[:2], p.groups.keys.ids, p.groups.keys.used, p.temperature, span,
    )  # fmt: skip
    options: dict[str, Any] = {"WIDTH": p.queries.width, "SINGLE": p.single, "PRECISION": p.precision}

    def grid(meta: dict[str, int]) -> tuple[int, int]:
        return padded // meta["ROWS"], segments

    SUM_EXPONENTIALS[p.products][grid](
        *sides, partial[0], partial[1], padded, SUPCON=supcon, BOUNDED=p.bounded, **options
    )
    boundary = partial[0].logsumexp(0)
    if not supcon:
        SUM_POSITIVES[p.products][grid](*sides, boundary, partial[1], partial[2], padded, **options)
    first, second = partial[1:].sum(1)
    return boundary, first, second


def backward(
    grad_loss: Tensor,
    queries: Tensor,
    query_labels: Tensor,
    keys: Tensor | None,
    key_labels: Tensor | None,
    temperature: Tensor,
    mode: str,
    normalize: bool,
    ignore_index: int,
    query_ids: Tensor | None,
    key_ids: Tensor | None,
    boundary: Tensor,
    weight: Tensor,
    count: Tensor,
    need_queries: bool,
    need_keys: bool,
    need_temperature: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The operation ``pyeqgan::contrastive_loss_backward``; (0,) for a gradient that is not needed.

    Raises:
        TypeError: queries are of another dtype than float32, bfloat16, float16.
        ValueError: more rows than an int32 counts.
    """
    need_keys = need_keys and keys is not None
    grad_queries = queries.new_zeros(queries.shape if need_queries else 0)
    grad_keys = queries.new_zeros(keys.shape if need_keys and keys is not None else 0)
    grad_temperature = temperature.new_zeros(()) if need_temperature else grad_loss.new_empty(0)
    if min(len(queries), len(queries if keys is None else keys)) == 0:
        return grad_queries, grad_keys, grad_temperature
    with torch.cuda.device_of(queries):
        p = _prepare(
            "contrastive_loss_backward", queries, query_labels, keys, key_labels, temperature, normalize,
            ignore_index, query_ids, key_ids,
        )  # fmt: skip
        # Where G is rounded to 16 bits, it is first brought to where float16 has them.
        largest = 2.0**14 if queries.dtype == torch.float16 else 1.0
        upstream, size = _upstream(grad_loss, boundary, count, mode == "supcon")
        terms = _terms(p, upstream / (size / largest), boundary, weight, count, mode == "supcon")
        scale = size / largest / p.temperature
        slope = None
        # The temperature's gradient follows from that of either side.
        if need_queries or (need_temperature and not need_keys):
            sums = _gradients(p, terms, mode == "supcon", True)
            target = grad_queries if need_queries else None
            slope = scatter_gradients(sums, scale, p.queries, p.groups.queries, target, normalize)
        if need_keys:
            sums = _gradients(p, terms, mode == "supcon", False)
            slope = scatter_gradients(sums, scale, p.keys, p.groups.keys, grad_keys, normalize)
        if need_temperature and slope is not None:
            # Σ row·gradient counts each score once; in self-contrast, where a row is both, twice.
            grad_temperature.copy_(-slope / p.temperature / (2 if p.single else 1))
    return grad_queries, grad_keys, grad_temperature


def _upstream(grad_loss: Tensor, boundary: Tensor, count: Tensor, supcon: bool) -> tuple[Tensor, Tensor]:
    """The incoming gradient, 0 where nothing flows, and its largest size, 0-d: 1 if that is 0 or not finite."""
    flows = count > 0 if supcon else (count > 0) & (boundary != float("-inf"))
    upstream = torch.where(flows, grad_loss, 0.0)
    size = upstream.abs().max()
    return upstream, torch.where((size > 0) & size.isfinite(), size, 1.0)


def _terms(
    p: _Problem, upstream: Tensor, boundary: Tensor, weight: Tensor, count: Tensor, supcon: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Share, shift and pull of every sorted query, padded with zeros: see ``_contrastive_backward.gradient``."""
    pull = upstream / count.clamp_min(1)
    share = upstream if supcon else pull * weight
    idle = upstream == 0
    if p.bounded:
        shift = torch.where(idle, 0.0, (-boundary).exp())
        share = share * shift
    else:
        shift = torch.where(idle, float("inf"), boundary)
    order = p.groups.queries.order
    terms = upstream.new_zeros(3, len(p.queries.factors))
    for term, value in zip(terms, (share, shift, pull), strict=True):
        term[: len(order)] = value[order]
    return terms[0], terms[1], terms[2]


def _gradients(p: _Problem, terms: tuple[Tensor, Tensor, Tensor], supcon: bool, of_queries: bool) -> Tensor:
    """Σ_j G_ij k_j of the sorted queries, or Σ_i G_ij q_i of the sorted keys, or both at once; (padded,width)."""
    sides = [(p.queries, p.groups.queries), (p.keys, p.groups.keys)]
    (rows, side), (others, other) = sides if of_queries else sides[::-1]
    padded = len(rows.factors)
    segments, span = segments_of(padded, len(other.order))
    sums = rows.factors.new_zeros(segments, padded, rows.width)

    def grid(meta: dict[str, int]) -> tuple[int, int, int]:
        return padded // meta["ROWS"], triton.cdiv(rows.width, meta["CHANNELS"]), segments

    SUM_GRADIENTS[p.products][grid](
        *rows[:2], side.ids, side.begin, side.end, side.used, *others[:2], other.ids, other.used,
        p.temperature, span, *terms, sums, padded,
        WIDTH=rows.width, OF_QUERIES=of_queries, OF_KEYS=p.single or not of_queries, SUPCON=supcon,
        BOUNDED=p.bounded, PRECISION=p.precision,
    )  # fmt: skip
    return sums.sum(0) if segments > 1 else sums[0]
