"""``contrastive_loss``: supervised InfoNCE over rows of features, typically pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pyeqgan import reference
from pyeqgan.ops import _checks as check
from pyeqgan.ops import _contrastive_blocks as blocks
from pyeqgan.ops import _library as library

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

NAME = "contrastive_loss"


def contrastive_loss(
    queries: Tensor,
    query_labels: Tensor,
    keys: Tensor | None = None,
    key_labels: Tensor | None = None,
    *,
    temperature: float | Tensor = 0.1,
    mode: str = "per_positive",
    normalize: bool = True,
    ignore_index: int = -1,
    query_ids: Tensor | None = None,
    key_ids: Tensor | None = None,
    reduction: str = "mean",
    group: ProcessGroup | None = None,
) -> Tensor:
    """Pull features of equal labels together and push those of different labels apart.

    With s_ij = q_i·k_j / temperature, V_i the keys that are neither ignored nor have the query's id, P_i ⊂ V_i those
    with the query's label, N_i ⊂ V_i those without, and c_i = |P_i|:

    - "supcon": l_i = logsumexp_V s − Σ_P s / c_i;
    - "per_positive": B_i = logsumexp_N s, l_i = (1/c_i) Σ_P softplus(B_i − s_ip).

    A query that is ignored or has no positive is inactive: loss 0, gradient 0, not counted. A query without
    negatives has B = −∞ and loss 0 in "per_positive".

    Args:
        queries: (M,D), float32, float64, bfloat16 or float16; any strides.
        query_labels: (M,) int64; ``ignore_index`` marks rows to leave out.
        keys: (N,D) in the dtype of queries, or None: the queries contrast with each other.
        key_labels: (N,) int64, given exactly when keys is.
        temperature: a number > 0, or a 0-d tensor (learned: it receives a gradient).
        mode: "per_positive" or "supcon".
        normalize: L2-normalise the rows first (‖·‖ clamped at 1e-12).
        ignore_index: the label that marks ignored queries and keys.
        query_ids, key_ids: (M,) and (N,) int64; a pair with equal ids is excluded. By default the row numbers when
            keys is None, no exclusion otherwise. With keys given, both or neither.
        reduction: "mean" over active queries (0, attached to the graph, if there is none), "sum", or "none" (M,).
        group: a process group; local queries contrast with the keys of every rank. "mean" and "sum" then return
            the loss of all ranks together, and every gradient equals that of one process holding all rows. Keys are
            gathered, or, where those of all ranks take more than ``PYEQGAN_GATHER_LIMIT`` bytes (an environment
            variable, the same on every rank; 1 GiB by default), they pass from rank to rank: then none holds more
            than two ranks' keys, two to four times as much is sent, no fused kernel runs, and the second derivative
            still gathers them. Arguments that want gradients must do so on every rank.

    Returns:
        A 0-d tensor, or (M,) for "none", float32 (float64 for float64 input). Differentiable twice in queries, keys
        and temperature. Saved for backward: the arguments and three numbers a query. No kernel holds an M×N tensor,
        nor does the second derivative, which is composed for some queries at a time.

    Raises:
        TypeError: an argument is not a tensor or has another dtype.
        ValueError: a wrong rank, size or device, an unknown mode or reduction, keys without labels, one kind of ids
            without the other, or a temperature that is not a finite number > 0 (a temperature on a GPU is not
            looked at: that would synchronise).
        NotImplementedError: forward-mode differentiation.

    Source: Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020, eq. 2 ("supcon"); Wang et al., "Exploring
    Cross-Image Pixel Contrast for Semantic Segmentation", ICCV 2021, eq. 3, and ECGAN, ICLR 2023 ("per_positive").
    """
    check.tensor(NAME, "queries", queries, shape=("M", "D"))
    rows: dict[str, Any] = {"dtype": torch.int64, "device": queries.device}
    check.tensor(NAME, "query_labels", query_labels, shape=queries.shape[:1], **rows)
    if query_ids is not None:
        check.tensor(NAME, "query_ids", query_ids, shape=queries.shape[:1], **rows)
    if keys is None:
        for name, value in (("key_labels", key_labels), ("key_ids", key_ids)):
            if value is not None:
                check.fail(NAME, name, "None without keys", "a tensor")
    else:
        check.tensor(NAME, "keys", keys, shape=("N", queries.shape[1]), dtype=queries.dtype, device=queries.device)
        if key_labels is None:
            check.fail(NAME, "key_labels", "a tensor when keys are given", None)
        check.tensor(NAME, "key_labels", key_labels, shape=keys.shape[:1], **rows)
        if (query_ids is None) != (key_ids is None):
            check.fail(NAME, "query_ids, key_ids", "both or neither when keys are given", "one of them")
        if key_ids is not None:
            check.tensor(NAME, "key_ids", key_ids, shape=keys.shape[:1], **rows)
    check.choice(NAME, "mode", mode, ("per_positive", "supcon"))
    check.choice(NAME, "reduction", reduction, ("mean", "sum", "none"))
    check.flag(NAME, "normalize", normalize)
    check.integer(NAME, "ignore_index", ignore_index)
    temperature = _check_temperature(temperature, queries)
    check.no_forward_mode(NAME, queries, keys, temperature)
    arguments = (
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
    )
    if group is None:
        loss, _, _, count = torch.ops.pyeqgan.contrastive_loss.default(*arguments)
    else:
        loss, count = _rows_of_ranks(*arguments, group)
    if reduction == "none":
        return loss  # type: ignore[no-any-return]
    total: Tensor = loss.sum()
    active = (count > 0).sum()
    if group is not None:
        from pyeqgan.ops import _sharded

        total, active = _sharded.sum_over_ranks(total, active, group)
    return total / active.clamp_min(1) if reduction == "mean" else total


def _rows_of_ranks(
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
    group: ProcessGroup,
) -> tuple[Tensor, Tensor]:
    """The loss of every local query against all ranks' keys, and the number of its positives."""
    from pyeqgan.ops import _ring, _sharded

    local, query_ids = _sharded.local_keys(queries, query_labels, keys, key_labels, query_ids, key_ids, group)
    options = (temperature, mode, normalize, ignore_index)
    if _sharded.too_many_to_gather(local):
        return _ring.contrastive_rows(queries, query_labels, query_ids, local, *options, group)
    features, labels, ids = _sharded.gather_keys(local, group)
    operation = torch.ops.pyeqgan.contrastive_loss.default
    loss, _, _, count = operation(queries, query_labels, features, labels, *options, query_ids, ids)
    return loss, count


def _check_temperature(temperature: float | Tensor, queries: Tensor) -> Tensor:
    dtype = reference.accumulation_dtype(queries.dtype)
    if not isinstance(temperature, Tensor):
        # On the host, so that a constant costs a GPU no copy.
        return torch.tensor(check.number(NAME, "temperature", temperature, positive=True), dtype=dtype)
    check.tensor(NAME, "temperature", temperature, shape=())
    if temperature.device.type != "cpu":
        check.tensor(NAME, "temperature", temperature, device=queries.device)
    if check.readable(temperature):
        check.number(NAME, "temperature", temperature.item(), positive=True)
    return temperature.to(dtype)


def _oracle(
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
    return reference.contrastive_rows(
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
    )


def _fake(
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
    dtype = reference.accumulation_dtype(queries.dtype)
    loss, boundary, weight = (queries.new_empty(queries.shape[0], dtype=dtype) for _ in range(3))
    return loss, boundary, weight, query_labels.new_empty(queries.shape[0])


def _backward_oracle(
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
    return blocks.backward_of_rows(
        slice(None),
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
        (need_queries, need_keys, need_temperature),
    )


def _backward_fake(
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
    return (
        queries.new_empty(queries.shape if need_queries else 0),
        queries.new_empty(keys.shape if need_keys and keys is not None else 0),
        temperature.new_empty(()) if need_temperature else grad_loss.new_empty(0),
    )


_ARGUMENTS = (
    "Tensor queries, Tensor query_labels, Tensor? keys, Tensor? key_labels, Tensor temperature, str mode, "
    "bool normalize, int ignore_index, Tensor? query_ids, Tensor? key_ids"
)
library.define(
    # boundary: logsumexp over V ("supcon") or N ("per_positive"); weight: Σ_P sigmoid(B − s), 0 in "supcon".
    f"{NAME}({_ARGUMENTS}) -> (Tensor loss, Tensor boundary, Tensor weight, Tensor count)",
    oracle=_oracle,
    fake=_fake,
)
library.define(
    f"{NAME}_backward(Tensor grad_loss, {_ARGUMENTS}, Tensor boundary, Tensor weight, Tensor count, "
    "bool need_queries, bool need_keys, bool need_temperature) "
    "-> (Tensor grad_queries, Tensor grad_keys, Tensor grad_temperature)",
    oracle=_backward_oracle,
    fake=_backward_fake,
)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    (queries, query_labels, keys, key_labels, temperature, *ctx.options, query_ids, key_ids) = inputs
    ctx.save_for_backward(queries, query_labels, keys, key_labels, temperature, query_ids, key_ids, *output[1:])
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad_loss: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad_loss is None:
        return (None,) * 10
    *tensors, query_ids, key_ids, boundary, weight, count = ctx.saved_tensors
    needs = [ctx.needs_input_grad[i] for i in (0, 2, 4)]
    grads = torch.ops.pyeqgan.contrastive_loss_backward.default(
        grad_loss, *tensors, *ctx.options, query_ids, key_ids, boundary, weight, count, *needs
    )
    grad_queries, grad_keys, grad_temperature = map(library.optional, grads, needs)
    return grad_queries, None, grad_keys, None, grad_temperature, *(None,) * 5


library.differentiate(NAME, _backward, _setup_context)
library.differentiate(f"{NAME}_backward", blocks.double_backward, blocks.setup_context)
