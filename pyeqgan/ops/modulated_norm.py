"""``modulated_norm``: normalise, scale and shift every pixel by maps, activate (SPADE, CVPR 2019)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyeqgan import reference
from pyeqgan.ops import _checks as check
from pyeqgan.ops import _library as library
from pyeqgan.ops import _norm
from pyeqgan.ops._graph import asked_for

NAME = "modulated_norm"


def modulated_norm(
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    *,
    norm: str | None = "instance",
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    activation: str | None = "leaky_relu",
    negative_slope: float = 0.2,
) -> Tensor:
    """Normalise x and let maps scale and shift it: y = act(norm(x)·(1 + gamma) + beta).

    The norm has no weight and no bias; gamma and beta, commonly made from a semantic layout, stand in their place
    and differ from pixel to pixel (SPADE) or from image to image (conditional normalisation).

    Args:
        x: (B,C,H,W), float32, float64, bfloat16 or float16; any strides. Statistics and sums are kept in float32
            (float64 for float64).
        gamma, beta: both (B,C,H,W) or both (B,C), in the dtype of x. The two halves of one convolution's output,
            ``maps.chunk(2, 1)``, are read where they lie.
        norm: None, "batch" or "instance".
        running_mean, running_var: (C,) statistics of a batch norm, updated in place when training (the variance
            unbiased), used when not training; dtype of x or float32. Not for instance norm.
        training: whether a batch norm uses the batch's statistics.
        momentum: share of the new statistics in the running ones, in [0, 1].
        eps: added to the variance; ≥ 0.
        activation: None, "relu", "leaky_relu" or "tanh".
        negative_slope: of the leaky ReLU; ≥ 0.

    Returns:
        (B,C,H,W) in the dtype and memory format of x. Differentiable twice in x, gamma and beta. Saved for backward:
        x, gamma, beta and the norm's statistics, nothing else of the image's size.

    Raises:
        TypeError: an argument is not a tensor or has another dtype.
        ValueError: a wrong rank, size or device, an unknown norm or activation, running statistics missing in
            evaluation or given for another norm, or numbers out of range.
        NotImplementedError: forward-mode differentiation.

    Source: Park et al., "Semantic Image Synthesis with Spatially-Adaptive Normalization", CVPR 2019, equation 1,
    with the published code's 1 + gamma.
    """
    check.tensor(NAME, "x", x, shape=("B", "C", "H", "W"))
    x, gamma, beta = library.autocast(x, gamma, beta)
    check.tensor(NAME, "gamma", gamma, dtype=x.dtype, device=x.device)
    if gamma.shape not in (x.shape, x.shape[:2]):
        expected = " or ".join(f"shape {tuple(shape)}" for shape in (x.shape, x.shape[:2]))
        check.fail(NAME, "gamma", expected, f"shape {tuple(gamma.shape)}")
    check.tensor(NAME, "beta", beta, shape=gamma.shape, dtype=x.dtype, device=x.device)
    check.choice(NAME, "activation", activation, (None, "relu", "leaky_relu", "tanh"))
    negative_slope = check.number(NAME, "negative_slope", negative_slope, minimum=0)
    momentum, eps = _norm.check_norm(
        NAME, norm, x.shape[1], x, None, None, running_mean, running_var, training, momentum, eps
    )
    check.no_forward_mode(NAME, x, gamma, beta)
    y, mean, var = torch.ops.pyeqgan.modulated_norm.default(
        x, gamma, beta, norm, running_mean, running_var, training, eps, activation, negative_slope
    )
    if norm == "batch" and training:
        count = x.shape[0] * x.shape[2] * x.shape[3]
        reference.update_running_statistics(running_mean, running_var, mean, var, momentum, count)
    return y  # type: ignore[no-any-return]


def _oracle(
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    norm: str | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    eps: float,
    activation: str | None,
    negative_slope: float,
) -> tuple[Tensor, Tensor, Tensor]:
    y, mean, var = reference.modulated_norm_with_statistics(
        x,
        gamma,
        beta,
        norm=norm,
        running_mean=running_mean,
        running_var=running_var,
        training=training,
        eps=eps,
        activation=activation,
        negative_slope=negative_slope,
    )
    # Statistics that are the running ones must not alias them: the op promises fresh outputs.
    return y.contiguous(memory_format=library.memory_format_of(x)), mean.clone(), var.clone()


def _fake(
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    norm: str | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    eps: float,
    activation: str | None,
    negative_slope: float,
) -> tuple[Tensor, Tensor, Tensor]:
    mean, var = (_norm.empty_statistics(x, norm, x.shape[1]) for _ in range(2))
    return library.empty_image(x, x.shape[1]), mean, var


def _backward_oracle(
    grad_y: Tensor,
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    norm: str | None,
    mean: Tensor,
    var: Tensor,
    training: bool,
    eps: float,
    activation: str | None,
    negative_slope: float,
    need_x: bool,
    need_gamma: bool,
    need_beta: bool,
) -> tuple[Tensor, ...]:
    def forward(x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        return reference.modulated_norm_with_statistics(
            x,
            gamma,
            beta,
            norm=norm,
            running_mean=mean,
            running_var=var,
            training=training,
            eps=eps,
            activation=activation,
            negative_slope=negative_slope,
        )[0]

    grads = library.composed_backward(forward, (x, gamma, beta), (grad_y,), (need_x, need_gamma, need_beta))
    form = library.memory_format_of(x)
    return tuple(g.contiguous(memory_format=form) if g.dim() == 4 else g.contiguous() for g in grads)


def _backward_fake(
    grad_y: Tensor,
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    norm: str | None,
    mean: Tensor,
    var: Tensor,
    training: bool,
    eps: float,
    activation: str | None,
    negative_slope: float,
    need_x: bool,
    need_gamma: bool,
    need_beta: bool,
) -> tuple[Tensor, ...]:
    def gradient(of: Tensor, needed: bool) -> Tensor:
        if not needed:
            return x.new_empty(0)
        return library.empty_image(x, x.shape[1]) if of.dim() == 4 else x.new_empty(of.shape)

    return gradient(x, need_x), gradient(gamma, need_gamma), gradient(beta, need_beta)


library.define(
    f"{NAME}(Tensor x, Tensor gamma, Tensor beta, str? norm, Tensor? running_mean, Tensor? running_var, "
    "bool training, float eps, str? activation, float negative_slope) -> (Tensor y, Tensor mean, Tensor var)",
    oracle=_oracle,
    fake=_fake,
)
library.define(
    f"{NAME}_backward(Tensor grad_y, Tensor x, Tensor gamma, Tensor beta, str? norm, Tensor mean, Tensor var, "
    "bool training, float eps, str? activation, float negative_slope, bool need_x, bool need_gamma, bool need_beta) "
    "-> (Tensor grad_x, Tensor grad_gamma, Tensor grad_beta)",
    oracle=_backward_oracle,
    fake=_backward_fake,
)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, gamma, beta, ctx.norm, _, _, *ctx.numbers = inputs
    _, mean, var = output
    ctx.save_for_backward(x, gamma, beta, mean, var)
    ctx.mark_non_differentiable(mean, var)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad_y: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad_y is None:
        return (None,) * 10
    x, gamma, beta, mean, var = ctx.saved_tensors
    needs = asked_for(ctx)[:3]
    grads = torch.ops.pyeqgan.modulated_norm_backward.default(
        grad_y, x, gamma, beta, ctx.norm, mean, var, *ctx.numbers, *needs
    )
    return *map(library.optional, grads, needs), *(None,) * 7


library.differentiate(NAME, _backward, _setup_context)
library.differentiate_composed(f"{NAME}_backward")
