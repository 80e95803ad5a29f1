"""``activated_conv2d``: activation, padding and convolution in one, saving nothing but its input."""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pyeqgan import reference
from pyeqgan.ops import _checks as check
from pyeqgan.ops import _library as library
from pyeqgan.ops._graph import asked_for

NAME = "activated_conv2d"
MAX_PADDING = 2**16  # beyond it the output's size would leave int64 sooner than memory


def activated_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: str | None = "leaky_relu",
    negative_slope: float = 0.2,
    padding: int = 1,
    padding_mode: str = "reflect",
) -> Tensor:
    """Convolve an activated, padded map with stride 1: y = conv(pad(act(x)), weight, bias).

    Args:
        x: (B,C,H,W), float32, float64, bfloat16 or float16; any strides.
        weight: (Co,C,kh,kw) in the dtype of x.
        bias: (Co,) or None.
        activation: None, "relu", "leaky_relu" or "tanh", applied to x first.
        negative_slope: of the leaky ReLU; ≥ 0.
        padding: pixels on every side; in [0, 2¹⁶], and < H, W for "reflect".
        padding_mode: "reflect", "zeros" or "replicate".

    Returns:
        (B,Co,H+2·padding−kh+1,W+2·padding−kw+1) in the dtype and memory format of x. Differentiable to any order in
        x, weight and bias. Saved for backward: x and weight; the eager chain saves the activated and the padded
        map besides. Each gradient asked for costs one product, also in the higher orders: a second derivative is
        this operation again, with x replaced by act'(x)·direction, the only tensor of x's size it makes.

    Raises:
        TypeError: an argument is not a tensor or has another dtype.
        ValueError: a wrong rank, size or device, an unknown activation or padding mode, or a map that is too small
            for the padding or the kernel.
        NotImplementedError: forward-mode differentiation.

    Source: the activation-first residual blocks of LoFGAN's discriminator (ICCV 2021), after He et al. (2016). The
    CPU kernel computes 3×3 convolutions by Winograd's F(2×2, 3×3) (Lavin and Gray, CVPR 2016), in float32 at least.
    """
    check.tensor(NAME, "x", x, shape=("B", "C", "H", "W"))
    x, weight, bias = library.autocast(x, weight, bias)
    check.tensor(NAME, "weight", weight, shape=("Co", x.shape[1], "kh", "kw"), dtype=x.dtype, device=x.device)
    check.not_empty(NAME, "weight", weight)
    if bias is not None:
        check.tensor(NAME, "bias", bias, shape=weight.shape[:1], dtype=x.dtype, device=x.device)
    check.choice(NAME, "activation", activation, (None, "relu", "leaky_relu", "tanh"))
    negative_slope = check.number(NAME, "negative_slope", negative_slope, minimum=0)
    check.integer(NAME, "padding", padding, minimum=0, maximum=MAX_PADDING)
    check.choice(NAME, "padding_mode", padding_mode, tuple(reference.PADDING_MODES))
    height, width = x.shape[2:]
    least = padding + 1 if padding_mode == "reflect" else 1
    smallest = [max(least, kernel - 2 * padding) for kernel in weight.shape[2:]]
    if height < smallest[0] or width < smallest[1]:
        check.fail(
            NAME,
            "x",
            f"a map of at least {smallest[0]}×{smallest[1]} for a {weight.shape[2]}×{weight.shape[3]} kernel "
            f"with {padding_mode!r} padding {padding}",
            f"{height}×{width}",
        )
    check.no_forward_mode(NAME, x, weight, bias)
    y: Tensor = torch.ops.pyeqgan.activated_conv2d.default(
        x, weight, bias, activation, negative_slope, padding, padding_mode
    )
    return y


def _oracle(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: str | None,
    negative_slope: float,
    padding: int,
    padding_mode: str,
) -> Tensor:
    y = reference.activated_conv2d(
        x,
        weight,
        bias,
        activation=activation,
        negative_slope=negative_slope,
        padding=padding,
        padding_mode=padding_mode,
    )
    return y.contiguous(memory_format=library.memory_format_of(x))


def _fake(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: str | None,
    negative_slope: float,
    padding: int,
    padding_mode: str,
) -> Tensor:
    height, width = (x.shape[i] + 2 * padding - weight.shape[i] + 1 for i in (2, 3))
    return library.empty_image(x, weight.shape[0], height, width)


def _backward_oracle(
    grad_y: Tensor,
    x: Tensor,
    weight: Tensor,
    activation: str | None,
    negative_slope: float,
    padding: int,
    padding_mode: str,
    need_x: bool,
    need_weight: bool,
    need_bias: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    dtype = reference.accumulation_dtype(x.dtype)

    def padded(x: Tensor) -> Tensor:
        h = reference.activate(x.to(dtype), activation, negative_slope)
        mode = reference.PADDING_MODES[padding_mode] if h.numel() else "constant"
        return F.pad(h, (padding,) * 4, mode=mode)

    grad_padded, grad_weight, grad_bias = torch.ops.aten.convolution_backward.default(
        grad_y.to(dtype),
        padded(x.detach()),
        weight.to(dtype),
        [weight.shape[0]],
        [1, 1],
        [0, 0],
        [1, 1],
        False,
        [0, 0],
        1,
        [need_x, need_weight, need_bias],
    )
    grad_x = library.vjp(padded, [x], [grad_padded], [True])[0] if need_x else None
    return (
        x.new_empty(0) if grad_x is None else grad_x.contiguous(memory_format=library.memory_format_of(x)),
        grad_weight.to(x.dtype).contiguous() if need_weight else x.new_empty(0),
        grad_bias.to(x.dtype) if need_bias else x.new_empty(0),
    )


def _backward_fake(
    grad_y: Tensor,
    x: Tensor,
    weight: Tensor,
    activation: str | None,
    negative_slope: float,
    padding: int,
    padding_mode: str,
    need_x: bool,
    need_weight: bool,
    need_bias: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        library.empty_image(x, x.shape[1]) if need_x else x.new_empty(0),
        x.new_empty(weight.shape if need_weight else 0),
        x.new_empty(weight.shape[:1] if need_bias else 0),
    )


library.define(
    f"{NAME}(Tensor x, Tensor weight, Tensor? bias, str? activation, float negative_slope, int padding, "
    "str padding_mode) -> Tensor",
    oracle=_oracle,
    fake=_fake,
)
library.define(
    f"{NAME}_backward(Tensor grad_y, Tensor x, Tensor weight, str? activation, float negative_slope, int padding, "
    "str padding_mode, bool need_x, bool need_weight, bool need_bias) "
    "-> (Tensor grad_x, Tensor grad_weight, Tensor grad_bias)",
    oracle=_backward_oracle,
    fake=_backward_fake,
)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, _, *ctx.options = inputs
    ctx.save_for_backward(x, weight)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad_y: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad_y is None:  # a second derivative that is zero arrives so: no pass is spent on it either
        return (None,) * 7
    needs = asked_for(ctx)[:3]
    grads = torch.ops.pyeqgan.activated_conv2d_backward.default(grad_y, *ctx.saved_tensors, *ctx.options, *needs)
    return *map(library.optional, grads, needs), None, None, None, None


def _setup_second_order(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    grad_y, x, weight, ctx.activation, ctx.negative_slope, *ctx.padding, _, _, _ = inputs
    ctx.save_for_backward(grad_y, x, weight)
    ctx.set_materialize_grads(False)


def _second_order(ctx: Any, *directions: Tensor | None) -> tuple[Tensor | None, ...]:
    """The derivative of the backward, in the direction (d_x, d_weight, d_bias) its results are weighted by.

    With a = act(x) and u = act'(x)·d_x, that weighted sum ⟨d_x, grad_x⟩ + ⟨d_weight, grad_weight⟩ + ⟨d_bias, grad_bias⟩
    is ⟨grad_y, conv(u, weight) + conv(a, d_weight) + d_bias⟩, linear in grad_y, weight and d_weight: each derivative
    is again this operation or its backward. The second derivative of the piecewise linear activations is zero and no
    pass is spent on it.
    """
    grad_y, x, weight = ctx.saved_tensors
    direction_x, direction_weight, direction_bias = directions
    need_y, need_x, need_weight = asked_for(ctx)[:3]
    convolve = torch.ops.pyeqgan.activated_conv2d.default
    backward = torch.ops.pyeqgan.activated_conv2d_backward.default
    linear, activated = (None, 0.0, *ctx.padding), (ctx.activation, ctx.negative_slope, *ctx.padding)
    of_y: list[Tensor] = []
    of_x: list[Tensor] = []
    of_weight: list[Tensor] = []
    if direction_x is not None:
        u = _times_slope(direction_x, x, ctx.activation, ctx.negative_slope)
        if need_y:
            of_y.append(convolve(u, weight, None, *linear))
        if need_weight:
            of_weight.append(backward(grad_y, u, weight, *linear, False, True, False)[1])
        if need_x and ctx.activation == "tanh":
            pulled = backward(grad_y, x, weight, *linear, True, False, False)[0]
            of_x += library.vjp(  # type: ignore[arg-type]
                lambda x: _times_slope(direction_x, x, "tanh", 0.0), [x], [pulled], [True]
            )
    if direction_weight is not None:
        if need_y:
            of_y.append(convolve(x, direction_weight, None, *activated))
        if need_x:
            of_x.append(backward(grad_y, x, direction_weight, *activated, True, False, False)[0])
    if direction_bias is not None and need_y:
        of_y.append(direction_bias[:, None, None].expand(grad_y.shape))
    return *(functools.reduce(torch.add, terms) if terms else None for terms in (of_y, of_x, of_weight)), *(None,) * 7


def _times_slope(v: Tensor, x: Tensor, activation: str | None, negative_slope: float) -> Tensor:
    """act'(x)·v."""
    if activation is None:
        return v
    if activation == "tanh":
        return v * (1 - torch.tanh(x).square())
    slope = 0.0 if activation == "relu" else negative_slope
    return torch.ops.aten.leaky_relu_backward.default(v, x, slope, False)  # type: ignore[no-any-return]


library.differentiate(NAME, _backward, _setup_context)
library.differentiate(f"{NAME}_backward", _second_order, _setup_second_order)
