"""``layout_conv2d``: convolution of a layout of classes as sums of rows of its weight, without the one-hot tensor."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pyeqgan import reference
from pyeqgan.ops import _checks as check
from pyeqgan.ops import _library as library
from pyeqgan.ops._graph import asked_for

NAME = "layout_conv2d"
MAX_PADDING = 2**16  # beyond it the output's size would leave int64 sooner than memory
MAX_STRIDE = 2**31


def layout_conv2d(
    labels: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int = 1,
    padding: int = 0,
    ignore_index: int = -1,
    activation: str | None = None,
    negative_slope: float = 0.2,
) -> Tensor:
    """Convolve the one-hot form of a layout and activate: y = act(conv2d(one_hot(labels), weight, bias)).

    Every pixel is a sum of at most kh·kw rows of the weight, one for each pixel of its window, whatever the number of
    classes; the (B,Nc,H,W) one-hot tensor is not made.

    Args:
        labels: (B,H,W) int64 in [0, Nc), or ``ignore_index``: a pixel that is zero in all classes; any strides.
        weight: (Co,Nc,kh,kw), float32, float64, bfloat16 or float16; any strides. Sums are kept in float32 (float64
            for float64).
        bias: (Co,) in the dtype of weight, or None.
        stride: of the window, in both directions; in [1, 2³¹].
        padding: pixels of no class on every side; in [0, 2¹⁶].
        ignore_index: any integer; if it is one of [0, Nc), that class is ignored.
        activation: None, "relu", "leaky_relu" or "tanh", applied to the sum.
        negative_slope: of the leaky ReLU; ≥ 0.

    Returns:
        (B,Co,(H+2·padding−kh)//stride+1,(W+2·padding−kw)//stride+1) in the dtype of weight; channels_last where the
        weight is, as of torch's own convolution, else contiguous. Differentiable to any order in weight and bias.
        Saved for backward: the labels, and y if there is an activation.

    Raises:
        TypeError: an argument is not a tensor or has another dtype.
        ValueError: a wrong rank, size or device, an unknown activation, a map smaller than the kernel, or a label that
            is neither a class nor ``ignore_index`` (on the CPU; on a GPU, where looking would synchronise, labels are
            the caller's promise).
        NotImplementedError: forward-mode differentiation.

    Source: the first convolution of a SPADE block or a layout's discriminator (Park et al., CVPR 2019), whose input is
    one-hot: x·W of a one-hot x is a row of W.
    """
    check.tensor(NAME, "labels", labels, shape=("B", "H", "W"), dtype=torch.int64)
    check.tensor(NAME, "weight", weight, shape=("Co", "Nc", "kh", "kw"), device=labels.device)
    check.not_empty(NAME, "weight", weight)
    weight, bias = library.autocast(weight, bias)
    if bias is not None:
        check.tensor(NAME, "bias", bias, shape=weight.shape[:1], dtype=weight.dtype, device=weight.device)
    check.integer(NAME, "stride", stride, minimum=1, maximum=MAX_STRIDE)
    check.integer(NAME, "padding", padding, minimum=0, maximum=MAX_PADDING)
    check.integer(NAME, "ignore_index", ignore_index)
    check.choice(NAME, "activation", activation, (None, "relu", "leaky_relu", "tanh"))
    negative_slope = check.number(NAME, "negative_slope", negative_slope, minimum=0)
    smallest = [max(kernel - 2 * padding, 0) for kernel in weight.shape[2:]]
    if any(size < least for size, least in zip(labels.shape[1:], smallest, strict=True)):
        kernel = f"{weight.shape[2]}×{weight.shape[3]} kernel with padding {padding}"
        got = f"{labels.shape[1]}×{labels.shape[2]}"
        check.fail(NAME, "labels", f"a map of at least {smallest[0]}×{smallest[1]} for a {kernel}", got)
    _check_classes(labels, weight.shape[1], ignore_index)
    check.no_forward_mode(NAME, weight, bias)
    y: Tensor = torch.ops.pyeqgan.layout_conv2d.default(
        labels, weight, bias, stride, padding, ignore_index, activation, negative_slope
    )
    return y


def _check_classes(labels: Tensor, num_classes: int, ignore_index: int) -> None:
    if not check.readable(labels) or not labels.numel():
        return
    low, high = (int(label) for label in labels.aminmax())
    if low >= 0 and high < num_classes:
        return
    strange = labels[((labels < 0) | (labels >= num_classes)) & (labels != ignore_index)]
    if strange.numel():
        expected = f"classes in [0, {num_classes}) or ignore_index {ignore_index}"
        check.fail(NAME, "labels", expected, int(strange[0]))


def _oracle(
    labels: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: int,
    padding: int,
    ignore_index: int,
    activation: str | None,
    negative_slope: float,
) -> Tensor:
    y = reference.layout_conv2d(
        labels,
        weight,
        bias,
        stride=stride,
        padding=padding,
        ignore_index=ignore_index,
        activation=activation,
        negative_slope=negative_slope,
    )
    return y.contiguous(memory_format=library.memory_format_of(weight))


def _fake(
    labels: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: int,
    padding: int,
    ignore_index: int,
    activation: str | None,
    negative_slope: float,
) -> Tensor:
    height, width = ((labels.shape[i] + 2 * padding - weight.shape[i + 1]) // stride + 1 for i in (1, 2))
    return weight.new_empty((labels.shape[0], weight.shape[0], height, width)).contiguous(
        memory_format=library.memory_format_of(weight)
    )


def _backward_oracle(
    grad_y: Tensor,
    y: Tensor | None,
    labels: Tensor,
    num_classes: int,
    kernel_size: list[int],
    stride: int,
    padding: int,
    ignore_index: int,
    activation: str | None,
    negative_slope: float,
    need_weight: bool,
    need_bias: bool,
) -> tuple[Tensor, Tensor]:
    dtype = reference.accumulation_dtype(grad_y.dtype)
    grad = grad_y.to(dtype)
    if y is not None:
        grad = grad * _slope(y.to(dtype), activation, negative_slope)
    x = F.pad(reference.one_hot(labels, num_classes, ignore_index, dtype), (padding,) * 4)
    weight = grad.new_empty((grad.shape[1], num_classes, *kernel_size))
    _, grad_weight, grad_bias = torch.ops.aten.convolution_backward.default(
        grad,
        x,
        weight,
        [weight.shape[0]],
        [stride, stride],
        [0, 0],
        [1, 1],
        False,
        [0, 0],
        1,
        [False, need_weight, need_bias],
    )
    return (
        grad_weight.to(grad_y.dtype).contiguous() if need_weight else grad_y.new_empty(0),
        grad_bias.to(grad_y.dtype) if need_bias else grad_y.new_empty(0),
    )


def _backward_fake(
    grad_y: Tensor,
    y: Tensor | None,
    labels: Tensor,
    num_classes: int,
    kernel_size: list[int],
    stride: int,
    padding: int,
    ignore_index: int,
    activation: str | None,
    negative_slope: float,
    need_weight: bool,
    need_bias: bool,
) -> tuple[Tensor, Tensor]:
    channels = grad_y.shape[1]
    return (
        grad_y.new_empty((channels, num_classes, *kernel_size) if need_weight else 0),
        grad_y.new_empty(channels if need_bias else 0),
    )


_OPTIONS = "int stride, int padding, int ignore_index, str? activation, float negative_slope"
library.define(
    f"{NAME}(Tensor labels, Tensor weight, Tensor? bias, {_OPTIONS}) -> Tensor",
    oracle=_oracle,
    fake=_fake,
)
library.define(
    # y: the operation's result, None without an activation.
    f"{NAME}_backward(Tensor grad_y, Tensor? y, Tensor labels, SymInt num_classes, SymInt[] kernel_size, {_OPTIONS}, "
    "bool need_weight, bool need_bias) -> (Tensor grad_weight, Tensor grad_bias)",
    oracle=_backward_oracle,
    fake=_backward_fake,
)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    labels, weight, _, *ctx.options = inputs
    activation = ctx.options[3]
    ctx.num_classes, *ctx.kernel_size = weight.shape[1:]
    ctx.save_for_backward(labels, None if activation is None else output)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad_y: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad_y is None:
        return (None,) * 8
    labels, y = ctx.saved_tensors
    needs = asked_for(ctx)[1:3]
    grads = torch.ops.pyeqgan.layout_conv2d_backward.default(
        grad_y, y, labels, ctx.num_classes, ctx.kernel_size, *ctx.options, *needs
    )
    return None, *map(library.optional, grads, needs), *(None,) * 5


def _setup_second_order(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    grad_y, y, labels, ctx.num_classes, ctx.kernel_size, *ctx.options, _, _ = inputs
    ctx.save_for_backward(grad_y, y, labels)
    ctx.set_materialize_grads(False)


def _second_order(ctx: Any, *directions: Tensor | None) -> tuple[Tensor | None, ...]:
    """The derivative of the backward, in the direction (d_weight, d_bias) its results are weighted by.

    ⟨d_weight, grad_weight⟩ + ⟨d_bias, grad_bias⟩ = ⟨grad_y·act', u⟩ with u = conv(one_hot, d_weight) + d_bias: this
    operation again. act' is a function of y, through which a curved activation (tanh) leads back to the weight; the
    second derivative of the others is zero and no pass is spent on it.
    """
    grad_y, y, labels = ctx.saved_tensors
    d_weight, d_bias = directions
    stride, padding, ignore_index, activation, negative_slope = ctx.options
    if d_weight is None and d_bias is None:
        return (None,) * 12
    if d_weight is None:
        u = d_bias[:, None, None].expand(grad_y.shape)  # type: ignore[index]
    else:
        u = torch.ops.pyeqgan.layout_conv2d.default(labels, d_weight, d_bias, stride, padding, ignore_index, None, 0.0)
    need_y = ctx.needs_input_grad[1] and activation == "tanh"
    of_y = -2 * y * grad_y * u if need_y else None
    return u if y is None else u * _slope(y, activation, negative_slope), of_y, *(None,) * 10


def _slope(y: Tensor, activation: str | None, negative_slope: float) -> Tensor:
    """The activation's derivative where its value is y."""
    if activation == "tanh":
        return 1 - y.square()
    one, below = y.new_ones(()), y.new_full((), 0.0 if activation == "relu" else negative_slope)
    return torch.where(y <= 0, below, one)


library.differentiate(NAME, _backward, _setup_context)
library.differentiate(f"{NAME}_backward", _second_order, _setup_second_order)
