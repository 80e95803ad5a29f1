"""The second derivative of ``contrastive_loss``: composed from its oracle, one block of queries at a time.

The loss of a query depends on no other query's, so its gradient is a sum over blocks of queries, and so is every
derivative of it. No tensor of more than BLOCK_SCORES scores lives at any time (but in a third derivative, whose graph
spans all blocks).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyeqgan import reference
from pyeqgan.ops import _library as library

BLOCK_SCORES = 1 << 21


def backward_of_rows(
    rows: slice,
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
    needs: tuple[bool, bool, bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """What the loss of the queries ``rows`` adds to the gradients of queries, keys and temperature.

    Differentiable. A gradient that ``needs`` does not ask for is empty, (0,).
    """
    if keys is None:
        key_labels = query_labels
        query_ids = torch.arange(len(queries), device=queries.device) if query_ids is None else query_ids
        key_ids = query_ids

    def loss(queries: Tensor, keys: Tensor | None, temperature: Tensor) -> Tensor:
        return reference.contrastive_rows(
            queries[rows],
            query_labels[rows],
            queries if keys is None else keys,
            key_labels,
            temperature,
            mode,
            normalize,
            ignore_index,
            None if query_ids is None else query_ids[rows],
            key_ids,
        )[0]

    grads = library.composed_backward(loss, (queries, keys, temperature), (grad_loss[rows],), needs)
    grad_queries, grad_keys, grad_temperature = grads
    return grad_queries.contiguous(), grad_keys.contiguous(), grad_temperature


def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    """Save what :func:`double_backward` needs of the inputs of ``contrastive_loss_backward``."""
    (
        grad_loss,
        queries,
        query_labels,
        keys,
        key_labels,
        temperature,
        *ctx.options,
        query_ids,
        key_ids,
        _boundary,
        _weight,
        _count,
        need_queries,
        need_keys,
        need_temperature,
    ) = inputs
    ctx.needs = (need_queries, need_keys, need_temperature)
    ctx.save_for_backward(grad_loss, queries, query_labels, keys, key_labels, temperature, query_ids, key_ids)
    ctx.set_materialize_grads(False)


def double_backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    """The gradient of ``contrastive_loss_backward``: to grad_loss, queries, keys and temperature."""
    grad_loss, queries, query_labels, keys, key_labels, temperature, query_ids, key_ids = ctx.saved_tensors
    mode, normalize, ignore_index = ctx.options

    def backward(rows: slice, *leaves: Any) -> tuple[Tensor, ...]:
        grad_loss, queries, keys, temperature = leaves
        return backward_of_rows(
            rows,
            grad_loss,
            queries,
            query_labels,
            keys,
            key_labels,
            temperature,
            mode,
            normalize,
            ignore_index,
            query_ids,
            key_ids,
            ctx.needs,
        )

    leaves = (grad_loss, queries, keys, temperature)
    wanted = [ctx.needs_input_grad[i] for i in (0, 1, 3, 5)]
    size = max(BLOCK_SCORES // max(len(queries if keys is None else keys), 1), 1)
    blocks = (slice(start, start + size) for start in range(0, len(queries), size))
    parts = (lambda *x, rows=rows: backward(rows, *x) for rows in blocks)
    to_grad_loss, to_queries, to_keys, to_temperature = library.vjp_of_sum(parts, leaves, grads, wanted)
    return to_grad_loss, to_queries, None, to_keys, None, to_temperature, *(None,) * 11
