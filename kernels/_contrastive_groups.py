"""Who contrasts with whom: the rows of ``contrastive_loss`` sorted by label, so that positives are one range of them.

Everything is computed on the device of the labels without waiting for it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Side(NamedTuple):
    """The queries or the keys, of a tensor with n rows."""

    order: Tensor  # (n) int64: their places in the tensor, sorted by label, those that take no part last
    used: Tensor  # 0-d int64: how many take part
    begin: Tensor  # (n) int32, and
    end: Tensor  # (n) int32: the range of sorted rows of the other side with the label of each sorted row
    ids: Tensor | None  # (n) int32, of each sorted row, if given: rows of equal ids do not meet


class Groups(NamedTuple):
    """Both sides, which in self-contrast are the same one."""

    queries: Side
    keys: Side
    positives: Tensor  # (M) int64: how many positives each query has, unsorted


def group_rows(
    query_labels: Tensor,
    key_labels: Tensor | None,
    ignore_index: int,
    query_ids: Tensor | None,
    key_ids: Tensor | None,
) -> Groups:
    """Sort both sides. Without key_labels the queries contrast with each other, a row never with itself.

    Queries without a positive take no part, unless they are keys at the same time.
    """
    single = key_labels is None
    labels = (query_labels,) if key_labels is None else (query_labels, key_labels)
    nobody = sum(len(x) for x in labels)  # the rank of rows that take no part
    ranks = [rank.masked_fill(x == ignore_index, nobody) for rank, x in zip(_ranks(*labels), labels, strict=True)]
    query_ranks, key_ranks = ranks[0], ranks[-1]
    sorted_keys, key_order = key_ranks.sort(stable=True)
    begin, end = _range(sorted_keys, query_ranks)
    excluded: Tensor | int = int(single)
    if query_ids is not None:
        ids = _ranks(query_ids) if key_ids is None else _ranks(query_ids, key_ids)
        query_ids, key_ids = ids[0], ids[-1]
        pairs = (key_ranks * nobody + key_ids).sort().values
        first, last = _range(pairs, query_ranks * nobody + query_ids)
        excluded = last - first
    positives = (end - begin - excluded).masked_fill(query_ranks == nobody, 0)

    def side(ranks: Tensor, order: Tensor, others: Tensor, ids: Tensor | None) -> Side:
        begin, end = _range(others, ranks)
        return Side(order, (ranks < nobody).sum(), begin.int(), end.int(), None if ids is None else ids[order].int())

    if single:
        both = side(sorted_keys, key_order, sorted_keys, query_ids)
        return Groups(both, both, positives)
    sorted_queries, query_order = query_ranks.masked_fill(positives == 0, nobody).sort(stable=True)
    queries = side(sorted_queries, query_order, sorted_keys, query_ids)
    return Groups(queries, side(sorted_keys, key_order, sorted_queries, key_ids), positives)


def _ranks(*values: Tensor) -> tuple[Tensor, ...]:
    """Numbers from 0 on in the order of the values, equal ones for equal values."""
    ascending, order = torch.cat(values).sort()
    rank = torch.zeros_like(order)
    rank[1:] = (ascending[1:] != ascending[:-1]).cumsum(0)
    return tuple(torch.empty_like(rank).scatter_(0, order, rank).split([len(v) for v in values]))


def _range(ascending: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Where each value stands in an ascending sequence."""
    return torch.searchsorted(ascending, values), torch.searchsorted(ascending, values, right=True)
