"""``equalization_consistency_loss``: the distance between equalized features and the decoder's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pyeqgan import reference
from pyeqgan.ops import _checks as check
from pyeqgan.ops import _library as library

NAME = "equalization_consistency_loss"


def equalization_consistency_loss(
    equalized: Sequence[Tensor],
    decoded: Sequence[Tensor],
    *,
    scale_weights: Sequence[float] | None = None,
    distance: str = "cosine",
    detach: str | None = None,
) -> Tensor:
    """L = Σ_s w_s·d(equalized_s, decoded_s) over the scales of two feature pyramids.

    Args:
        equalized, decoded: lists of equal length of (B,C_s,H_s,W_s), float32, float64, bfloat16 or float16, all of
            one dtype; any strides.
        scale_weights: w_s, finite and ≥ 0; None takes 1 for every scale.
        distance: "cosine": the mean over pixels of 1 − cos of the channel vectors (norms clamped at 1e-8); "l1",
            "l2": the mean over all elements of |difference|, difference².
        detach: "equalized" or "decoded": that side is a target and receives no gradient; None: both do.

    Returns:
        A 0-d tensor, float32 (float64 for float64 input); an empty scale contributes 0. Differentiable twice in
        every tensor. Saved for backward: the inputs.

    Raises:
        TypeError: an argument is not a list of tensors or has another dtype.
        ValueError: lists of different or no length, shapes or devices that differ, an unknown distance or detach.
        NotImplementedError: forward-mode differentiation.

    Source: the consistent equalization loss of EqGAN (arXiv 2307.14638), whose distance and weights are not public:
    cosine with weights 1 is (ours).
    """
    for name, features in (("equalized", equalized), ("decoded", decoded)):
        check.sequence(NAME, name, features, "(B,C,H,W) tensors")
    if len(equalized) != len(decoded) or not len(equalized):
        check.fail(NAME, "decoded", f"as many scales as equalized ({len(equalized)}), at least one", len(decoded))
    for i, (e, d) in enumerate(zip(equalized, decoded, strict=True)):
        check.tensor(NAME, f"equalized[{i}]", e, shape=("B", "C", "H", "W"))
        check.tensor(NAME, f"decoded[{i}]", d, shape=e.shape)
    device = equalized[0].device
    dtype = equalized[0].dtype
    autocast = library.autocast_enabled(device.type)
    if autocast and dtype != torch.float64:
        equalized, decoded, dtype = (
            [e.float() for e in equalized],
            [d.float() for d in decoded],
            torch.float32,
        )
    for name, features in (("equalized", equalized), ("decoded", decoded)):
        for i, f in enumerate(features):
            check.tensor(NAME, f"{name}[{i}]", f, dtype=dtype, device=device)
    weights = check.scale_weights(NAME, scale_weights, len(equalized))
    check.choice(NAME, "distance", distance, ("cosine", "l1", "l2"))
    check.choice(NAME, "detach", detach, (None, "equalized", "decoded"))
    check.no_forward_mode(NAME, *equalized, *decoded)
    if detach == "equalized":
        equalized = [e.detach() for e in equalized]
    elif detach == "decoded":
        decoded = [d.detach() for d in decoded]
    loss: Tensor = torch.ops.pyeqgan.equalization_consistency_loss.default(
        list(equalized), list(decoded), weights, distance
    )
    return loss


def _oracle(equalized: list[Tensor], decoded: list[Tensor], weights: list[float], distance: str) -> Tensor:
    return reference.equalization_consistency_loss(equalized, decoded, scale_weights=weights, distance=distance)


def _fake(equalized: list[Tensor], decoded: list[Tensor], weights: list[float], distance: str) -> Tensor:
    return equalized[0].new_empty((), dtype=reference.accumulation_dtype(equalized[0].dtype))


def _backward_oracle(
    grad_loss: Tensor,
    equalized: list[Tensor],
    decoded: list[Tensor],
    weights: list[float],
    distance: str,
    need_equalized: list[bool],
    need_decoded: list[bool],
) -> list[Tensor]:
    scales = len(equalized)
    features = (*equalized, *decoded)
    grads = library.composed_backward(
        lambda *f: _oracle(list(f[:scales]), list(f[scales:]), weights, distance),
        features,
        (grad_loss,),
        (*need_equalized, *need_decoded),
    )
    needs = (*need_equalized, *need_decoded)
    return [
        g.contiguous(memory_format=library.memory_format_of(f)) if n else g
        for g, f, n in zip(grads, features, needs, strict=True)
    ]


def _backward_fake(
    grad_loss: Tensor,
    equalized: list[Tensor],
    decoded: list[Tensor],
    weights: list[float],
    distance: str,
    need_equalized: list[bool],
    need_decoded: list[bool],
) -> list[Tensor]:
    needs = (*need_equalized, *need_decoded)
    return [
        library.empty_image(f, f.shape[1]) if n else grad_loss.new_empty(0)
        for f, n in zip((*equalized, *decoded), needs, strict=True)
    ]


library.define(
    f"{NAME}(Tensor[] equalized, Tensor[] decoded, float[] weights, str distance) -> Tensor",
    oracle=_oracle,
    fake=_fake,
)
library.define(
    f"{NAME}_backward(Tensor grad_loss, Tensor[] equalized, Tensor[] decoded, float[] weights, str distance, "
    "bool[] need_equalized, bool[] need_decoded) -> Tensor[]",
    oracle=_backward_oracle,
    fake=_backward_fake,
)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    equalized, decoded, ctx.weights, ctx.distance = inputs
    ctx.scales = len(equalized)
    ctx.save_for_backward(*equalized, *decoded)


def _backward(ctx: Any, grad_loss: Tensor) -> tuple[Any, ...]:
    features, n = list(ctx.saved_tensors), ctx.scales
    need_equalized, need_decoded = (list(need) for need in ctx.needs_input_grad[:2])
    grads = torch.ops.pyeqgan.equalization_consistency_loss_backward.default(
        grad_loss, features[:n], features[n:], ctx.weights, ctx.distance, need_equalized, need_decoded
    )
    wanted = [library.optional(g, n) for g, n in zip(grads, need_equalized + need_decoded, strict=True)]
    return wanted[:n], wanted[n:], None, None


library.differentiate(NAME, _backward, _setup_context)
library.differentiate_composed(f"{NAME}_backward")
