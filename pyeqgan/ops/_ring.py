"""Contrasting local queries with the keys of every rank, which pass from rank to rank in a ring.

No rank ever holds more than two ranks' keys. The first round collects, for every query, the log-sum-exp and the number
of its positives; "per_positive" needs the first before it can weigh the positives, hence a second one. Backward is one
round in which each block of keys travels with its gradient, which is complete when it comes home. It saves what the
kernels save; the second derivative, when it is asked for, is that of the gathered keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from pyeqgan import reference
from pyeqgan.ops import _library as library
from pyeqgan.ops._contrastive_blocks import BLOCK_SCORES
from pyeqgan.ops._sharded import Keys, gather_keys

_GRADIENT_TAG = 8  # above those of a block: keys, labels, ids


class _Settings(NamedTuple):
    mode: str
    ignore_index: int
    sizes: list[int]
    group: dist.ProcessGroup


def contrastive_rows(
    queries: Tensor,
    query_labels: Tensor,
    query_ids: Tensor | None,
    keys: Keys,
    temperature: Tensor,
    mode: str,
    normalize: bool,
    ignore_index: int,
    group: dist.ProcessGroup,
) -> tuple[Tensor, Tensor]:
    """The loss of every local query (M,), 0 where inactive, and the number of its positives, int64.

    Everything is computed, and travels, in float32 (float64 for float64). Every rank of the group must call this.
    """
    dtype = reference.accumulation_dtype(queries.dtype)

    def prepare(x: Tensor, labels: Tensor) -> Tensor:
        x = x.to(dtype).masked_fill((labels == ignore_index)[:, None], 0)
        return F.normalize(x, dim=1, eps=1e-12) if normalize else x

    q, k = prepare(queries, query_labels), prepare(keys.features, keys.labels)
    temperature = temperature.to(q.device)
    settings = _Settings(mode, ignore_index, keys.sizes, group)
    rows, count = _Rows.apply(q, k, temperature, query_labels, query_ids, keys.labels, keys.ids, settings)  # type: ignore[no-untyped-call]
    return rows, count


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        temperature: Tensor,
        query_labels: Tensor,
        query_ids: Tensor | None,
        key_labels: Tensor,
        key_ids: Tensor | None,
        settings: _Settings,
    ) -> tuple[Tensor, Tensor]:
        block = [k, key_labels] if key_ids is None else [k, key_labels, key_ids]
        local = (q, query_labels, query_ids, temperature, settings)
        boundary = q.new_full((len(q),), -torch.inf)
        pull, count = torch.zeros_like(boundary), torch.zeros_like(query_labels)
        for arrived in _circulate(block, settings):
            for rows, s, positive, negative in _scores(*local, arrived):
                competing = positive | negative if settings.mode == "supcon" else negative
                found = s.masked_fill(~competing, -torch.inf).logsumexp(1)
                boundary[rows] = torch.logaddexp(boundary[rows], found)
                count[rows] += positive.sum(1)
                if settings.mode == "supcon":
                    pull[rows] += s.masked_fill(~positive, 0).sum(1)
        active, positives = count > 0, count.clamp_min(1)
        if settings.mode == "supcon":
            loss = boundary - pull / positives
            weight = torch.zeros_like(boundary)
        else:
            loss, weight = torch.zeros_like(boundary), torch.zeros_like(boundary)
            for arrived in _circulate(block, settings):
                for rows, s, positive, _ in _scores(*local, arrived):
                    margin = (boundary[rows, None] - s).masked_fill(~positive, -torch.inf)
                    loss[rows] += F.softplus(margin, threshold=50).sum(1)
                    weight[rows] += margin.sigmoid().sum(1)
            loss /= positives
        ctx.settings = settings
        ctx.save_for_backward(q, k, temperature, query_labels, query_ids, key_labels, key_ids, boundary, weight, count)
        ctx.mark_non_differentiable(count)
        return torch.where(active, loss, torch.zeros_like(loss)), count

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad, settings = grads[0], ctx.settings
        q, k, temperature, query_labels, query_ids, key_labels, key_ids, boundary, weight, count = ctx.saved_tensors
        needs = ctx.needs_input_grad[:3]
        if torch.is_grad_enabled():  # the gradients are to be differentiated in their turn

            def gathered(q: Tensor, k: Tensor, temperature: Tensor) -> Tensor:
                keys, labels, ids = gather_keys(Keys(k, key_labels, key_ids, settings.sizes), settings.group)
                options = (settings.mode, False, settings.ignore_index, query_ids, ids)
                operation = torch.ops.pyeqgan.contrastive_loss.default
                rows: Tensor = operation(q, query_labels, keys, labels, temperature, *options)[0]
                return rows

            return *library.vjp(gathered, (q, k, temperature), (grad,), needs), *(None,) * 5

        positives = count.clamp_min(1)
        share = torch.where(count > 0, grad / positives, 0)
        block = [k, key_labels] if key_ids is None else [k, key_labels, key_ids]
        grad_q, grad_k = torch.zeros_like(q), torch.zeros_like(k)
        for hop, arrived in enumerate(_circulate(block, settings)):
            for rows, s, positive, negative in _scores(q, query_labels, query_ids, temperature, settings, arrived):
                log_ratio = s - boundary[rows, None]
                if settings.mode == "supcon":
                    competing = log_ratio.masked_fill(~(positive | negative), -torch.inf).exp()
                    of_scores = competing * positives[rows, None] - positive.to(s.dtype)
                else:
                    competing = log_ratio.masked_fill(~negative, -torch.inf).exp() * weight[rows, None]
                    of_scores = competing - (-log_ratio).masked_fill(~positive, -torch.inf).sigmoid()
                of_scores *= share[rows, None] / temperature
                grad_q[rows] += of_scores @ arrived[0]
                if needs[1]:
                    grad_k += of_scores.T @ q[rows]
            if needs[1]:
                grad_k = _pass_on([grad_k], settings, hop, _GRADIENT_TAG)()[0]
        grad_temperature = -(q * grad_q).sum() / temperature if needs[2] else None
        return grad_q if needs[0] else None, grad_k if needs[1] else None, grad_temperature, *(None,) * 5


def _scores(
    q: Tensor,
    query_labels: Tensor,
    query_ids: Tensor | None,
    temperature: Tensor,
    settings: _Settings,
    block: Sequence[Tensor],
) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
    """Some queries at a time: their rows, their scores with the keys of a block, and which are positive or negative."""
    keys, key_labels, *ids = block
    if len(keys) == 0:
        return
    size = max(BLOCK_SCORES // len(keys), 1)
    for start in range(0, len(q), size):
        rows = slice(start, start + size)
        labels = query_labels[rows, None]
        valid = (labels != settings.ignore_index) & (key_labels != settings.ignore_index)
        if ids and query_ids is not None:
            valid &= query_ids[rows, None] != ids[0]
        equal = labels == key_labels
        yield rows, q[rows] @ keys.T / temperature, valid & equal, valid & ~equal


def _circulate(block: Sequence[Tensor], settings: _Settings) -> Iterator[Sequence[Tensor]]:
    """Every rank's block, the own one first; the next one travels while the caller works on one."""
    hops = len(settings.sizes)
    for hop in range(hops):
        arrival = _pass_on(block, settings, hop, 0) if hop < hops - 1 else None
        yield block
        if arrival is not None:
            block = arrival()


def _pass_on(block: Sequence[Tensor], settings: _Settings, hop: int, tag: int) -> Callable[[], Sequence[Tensor]]:
    """Send the block held after ``hop`` hops to the next rank; returns a function that waits for the one before it."""
    group, sizes = settings.group, settings.sizes
    rank, count = dist.get_rank(group), len(sizes)
    to, origin = (dist.get_global_rank(group, (rank + step) % count) for step in (1, -1))
    arriving = [x.new_empty((sizes[(rank - hop - 1) % count], *x.shape[1:])) for x in block]
    operations = [
        dist.P2POp(function, x.contiguous() if function is dist.isend else x, peer, group, tag + i)
        for function, tensors, peer in ((dist.isend, block, to), (dist.irecv, arriving, origin))
        for i, x in enumerate(tensors)
        if x.numel()
    ]
    works = dist.batch_isend_irecv(operations) if operations else []

    def wait() -> Sequence[Tensor]:
        for work in works:
            work.wait()
        return arriving

    return wait
