"""``activated_conv2d``: activation, padding and convolution in one, saving nothing but its input."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyeqgan import reference
from pyeqgan.ops import _checks as check
from pyeqgan.ops import _library as library

NAME = "activated_conv2d"


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
        padding: pixels on every side; ≥ 0, and < H, W for "reflect".
        padding_mode: "reflect", "zeros" or "replicate".

    Returns:
        (B,Co,H+2·padding−kh+1,W+2·padding−kw+1) in the dtype and memory format of x. Differentiable twice in x,
        weight and bias. Saved for backward: x and weight; the eager chain saves the activated and the padded
        map besides.

    Raises:
        TypeError: an argument is not a tensor or has another dtype.
        ValueError: a wrong rank, size or device, an unknown activation or padding mode, or a map that is too small
            for the padding or the kernel.
        NotImplementedError: forward-mode differentiation.

    Source: the activation-first residual blocks of LoFGAN's discriminator (ICCV 2021), after He et al. (2016).
    """
    check.tensor(NAME, "x", x, shape=("B", "C", "H", "W"))
    x, weight, bias = library.autocast(x, weight, bias)
    check.tensor(NAME, "weight", weight, shape=("Co", x.shape[1], "kh", "kw"), dtype=x.dtype, device=x.device)
    if bias is not None:
        check.tensor(NAME, "bias", bias, shape=weight.shape[:1], dtype=x.dtype, device=x.device)
    check.choice(NAME, "activation", activation, (None, "relu", "leaky_relu", "tanh"))
    negative_slope = check.number(NAME, "negative_slope", negative_slope, minimum=0)
    check.integer(NAME, "padding", padding, minimum=0)
    check.choice(NAME, "padding_mode", padding_mode, tuple(reference.PADDING_MODES))
    height, width = x.shape[2:]
    smallest = padding + 1 if padding_mode == "reflect" else 1
    smallest = max(smallest, weight.shape[2] - 2 * padding), max(smallest, weight.shape[3] - 2 * padding)
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
    bias = weight.new_zeros(weight.shape[0])
    grad_x, grad_weight, grad_bias = library.composed_backward(
        lambda *inputs: _oracle(*inputs, activation, negative_slope, padding, padding_mode),
        (x, weight, bias),
        (grad_y,),
        (need_x, need_weight, need_bias),
    )
    if need_x:
        grad_x = grad_x.contiguous(memory_format=library.memory_format_of(x))
    return grad_x, grad_weight.contiguous(), grad_bias.contiguous()


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


def _backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
    needs = ctx.needs_input_grad[:3]
    grads = torch.ops.pyeqgan.activated_conv2d_backward.default(grad_y, *ctx.saved_tensors, *ctx.options, *needs)
    return *map(library.optional, grads, needs), None, None, None, None


library.differentiate(NAME, _backward, _setup_context)
library.differentiate_composed(f"{NAME}_backward")
