"""Contrasting local queries with the keys of every rank of a process group.

Keys are gathered forward and their gradients reduced and scattered backward; the gather and the reduction are each
other's derivative, so gradients of any order cross the ranks. Keys too many to be gathered go round, see `_ring`.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

GATHER_LIMIT = "PYEQGAN_GATHER_LIMIT"


class Keys(NamedTuple):
    """The keys of one rank.

    Attributes:
        features: (N,D).
        labels: (N,) int64.
        ids: (N,) int64, those of the queries they do not meet; None for no exclusion.
        sizes: how many keys each rank has.
    """

    features: Tensor
    labels: Tensor
    ids: Tensor | None
    sizes: list[int]


def rows_of_ranks(rows: int, device: torch.device, group: dist.ProcessGroup) -> list[int]:
    """How many rows each rank has. Every rank of the group must call this."""
    sizes = [torch.empty(1, dtype=torch.int64, device=device) for _ in range(dist.get_world_size(group))]
    dist.all_gather(sizes, torch.tensor([rows], device=device), group=group)
    return [int(s) for s in sizes]


def local_keys(
    queries: Tensor,
    query_labels: Tensor,
    keys: Tensor | None,
    key_labels: Tensor | None,
    query_ids: Tensor | None,
    key_ids: Tensor | None,
    group: dist.ProcessGroup,
) -> tuple[Keys, Tensor | None]:
    """The keys of this rank, and the ids of its queries: by default their numbers among all ranks' rows.

    Ranks may hold different numbers of rows. Every rank of the group must call this.
    """
    local = queries if keys is None else keys
    labels = query_labels if key_labels is None else key_labels
    sizes = rows_of_ranks(len(local), local.device, group)
    if keys is None:
        if query_ids is None:
            start = sum(sizes[: dist.get_rank(group)])
            query_ids = torch.arange(start, start + len(local), device=local.device)
        key_ids = query_ids
    return Keys(local, labels, key_ids, sizes), query_ids


def gather_keys(keys: Keys, group: dist.ProcessGroup) -> tuple[Tensor, Tensor, Tensor | None]:
    """All ranks' keys, their labels and their ids. Every rank of the group must call this."""
    features: Tensor = _Gather.apply(keys.features, keys.sizes, group)  # type: ignore[no-untyped-call]
    ids = None if keys.ids is None else _gather(keys.ids, keys.sizes, group)
    return features, _gather(keys.labels, keys.sizes, group), ids


def too_many_to_gather(keys: Keys) -> bool:
    """Whether all ranks' keys take more bytes than the environment variable `PYEQGAN_GATHER_LIMIT`, 1 GiB by default.

    Raises:
        ValueError: it is no number of bytes.
    """
    limit = os.environ.get(GATHER_LIMIT, str(1 << 30))
    if not limit.isdecimal():
        raise ValueError(f"contrastive_loss: {GATHER_LIMIT}: expected a number of bytes, got {limit!r}")
    return sum(keys.sizes) * keys.features.shape[1] * keys.features.itemsize > int(limit)


def sum_over_ranks(total: Tensor, active: Tensor, group: dist.ProcessGroup) -> tuple[Tensor, Tensor]:
    """The sums over all ranks; backward gives each rank the gradient of its own share."""
    active = active.clone()
    dist.all_reduce(active, group=group)
    return _Sum.apply(total, group), active  # type: ignore[no-untyped-call]


def _gather(x: Tensor, sizes: list[int], group: dist.ProcessGroup) -> Tensor:
    """Concatenate the ranks' rows; blocks travel padded to the largest."""
    block = x.new_zeros((max(sizes), *x.shape[1:]))
    block[: len(x)] = x
    blocks = [torch.empty_like(block) for _ in sizes]
    dist.all_gather(blocks, block, group=group)
    return torch.cat([b[:size] for b, size in zip(blocks, sizes, strict=True)])


def _reduce_scatter(x: Tensor, sizes: list[int], group: dist.ProcessGroup) -> Tensor:
    """Sum the ranks' copies of all rows and return this rank's rows of the sum."""
    rank = dist.get_rank(group)
    if dist.get_backend(group) == "gloo":  # which has no reduce-scatter
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=group)
        own: Tensor = total.split(sizes)[rank]
        return own.clone()
    blocks = []
    for part in x.split(sizes):
        block = x.new_zeros((max(sizes), *x.shape[1:]))
        block[: len(part)] = part
        blocks.append(block)
    mine = torch.empty_like(blocks[0])
    dist.reduce_scatter(mine, blocks, group=group)
    return mine[: sizes[rank]].clone()


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, sizes: list[int], group: dist.ProcessGroup) -> Tensor:
        ctx.sizes, ctx.group = sizes, group
        return _gather(x, sizes, group)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return _ReduceScatter.apply(grads[0], ctx.sizes, ctx.group), None, None  # type: ignore[no-untyped-call]


class _ReduceScatter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, sizes: list[int], group: dist.ProcessGroup) -> Tensor:
        ctx.sizes, ctx.group = sizes, group
        return _reduce_scatter(x, sizes, group)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return _Gather.apply(grads[0], ctx.sizes, ctx.group), None, None  # type: ignore[no-untyped-call]


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        total = x.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None
