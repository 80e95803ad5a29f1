"""``layout_conv2d`` in Triton: every output pixel a sum of rows of the weight, forward and backward.

Forward, a program adds up, for a block of pixels × output channels, the row of each tap's class from the weight
(taps,classes,Co), which lies in the caches; labels are read and y written where they are.

Backward, the gradient of the weight is a product of the one-hot pixels of a tap, which a program makes of its labels in
registers, and the gradients of its pixels: exact where they are, for a product by 0 or 1 rounds nothing, by tensor
cores at half precision, and summed in an order that the shape alone fixes, without atomics. A sum for each label by
scattered or sorted reads would need either atomics or a sort of all pixels first, and reads gradients in pieces.
Layouts are made of areas: where none of a block's pixels has one of a program's classes, the block's gradients are not
even read. The bias is one more class, that every pixel has. As in a convolution of the one-hot map, a gradient that is
not finite leaves its class: it reaches those multiplied with it.

Any strides; float32, bfloat16 and float16, all sums in float32. The second order is this operation again.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
# The functions under @triton.jit are written in Triton's language; they have no Python types.

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from pyeqgan.kernels._config import tiled
from pyeqgan.kernels._image import block_pixels, split
from pyeqgan.kernels._launch import blocks, groups, strided
from pyeqgan.kernels._normalization import activate, derivative
from pyeqgan.kernels._products import arithmetic, family
from pyeqgan.kernels.activated_conv2d import Convolution
from pyeqgan.ops._library import memory_format_of

PROGRAMS = 512  # wanted in a launch of sum_by_class, which cuts the pixels into segments for it


@triton.jit
def classes_at(
    tap, labels, labels_b, labels_h, labels_w, image, i, j, inside, classes, height, width, stride, padding, ignored,
    COLUMNS: tl.constexpr,
):  # fmt: skip
    """Which class the windows of outputs (i, j) have at a tap; −1 where it is none."""
    row = i.to(tl.int64) * stride + tap // COLUMNS - padding
    column = j.to(tl.int64) * stride + tap % COLUMNS - padding
    there = inside & (row >= 0) & (row < height) & (column >= 0) & (column < width)
    label = tl.load(labels + (image * labels_b + row * labels_h + column * labels_w), there, -1)
    return tl.where((label >= 0) & (label < classes) & (label != ignored), label, -1)


@tiled("layout_rows", ("out_channels", "out_height", "out_width", "TAPS"))
@triton.jit
def sum_rows(
    labels, labels_b, labels_h, labels_w, weight, bias, y, y_b, y_c, y_h, y_w, out_channels, out_height, out_width,
    classes, height, width, stride, padding, ignored, slope,
    COLUMNS: tl.constexpr, TAPS: tl.constexpr, ACTIVATION: tl.constexpr, PIXELS: tl.constexpr, OUT: tl.constexpr,
):  # fmt: skip
    """Of y (B,out_channels,out_height,out_width), from weight (TAPS,classes,out_channels)."""
    block, image = split(tl.program_id(0).to(tl.int64), tl.cdiv(tl.cast(out_height, tl.int64) * out_width, PIXELS))
    i, j, inside = block_pixels(block, out_height, out_width, PIXELS)
    o = tl.program_id(1) * OUT + tl.arange(0, OUT)
    total = tl.zeros((PIXELS, OUT), tl.float32)
    for tap in range(0, TAPS):
        label = classes_at(
            tap, labels, labels_b, labels_h, labels_w, image, i, j, inside, classes, height, width, stride, padding,
            ignored, COLUMNS,
        )  # fmt: skip
        row = weight + (tl.cast(tap, tl.int64) * classes + label) * out_channels
        mask = (label >= 0)[:, None] & (o < out_channels)[None, :]
        total += tl.load(row[:, None] + o[None, :], mask, 0.0).to(tl.float32)
    if bias is not None:
        total += tl.load(bias + o, o < out_channels, 0.0).to(tl.float32)[None, :]
    pixel = image * y_b + i.to(tl.int64) * y_h + j.to(tl.int64) * y_w
    target = y + (pixel[:, None] + o.to(tl.int64)[None, :] * y_c)
    tl.store(target, activate(total, slope, ACTIVATION), inside[:, None] & (o < out_channels)[None, :])


@triton.jit
def sum_by_class(
    grad, grad_b, grad_c, grad_h, grad_w, y, y_b, y_c, y_h, y_w, labels, labels_b, labels_h, labels_w, sums,
    out_channels, out_height, out_width, rows, classes, batch, height, width, stride, padding, ignored, slope, span,
    COLUMNS: tl.constexpr, TAPS: tl.constexpr, ACTIVATION: tl.constexpr, PRECISION: tl.constexpr,
    CLASSES: tl.constexpr, OUT: tl.constexpr, PIXELS: tl.constexpr,
):  # fmt: skip
    """Sums (segments,TAPS,rows,out_channels): of each class and tap the gradients of the pixels that have it there.

    A row after the classes', if there is one, has those of all pixels at tap 0. A segment is a run of ``span`` blocks
    of the output pixels of all images.
    """
    tap = tl.program_id(1)
    out_block, class_block = split(tl.program_id(0), tl.cdiv(out_channels, OUT))
    n = class_block * CLASSES + tl.arange(0, CLASSES)
    o = out_block * OUT + tl.arange(0, OUT)
    every = (n == classes) & (n < rows) & (tap == 0)
    always = tl.max(every.to(tl.int32), 0)
    per_image = tl.cdiv(tl.cast(out_height, tl.int64) * out_width, PIXELS)
    first = tl.program_id(2).to(tl.int64) * span
    total = tl.zeros((CLASSES, OUT), tl.float32)
    for item in range(first, tl.minimum(first + span, per_image * batch)):
        block, image = split(item, per_image)
        i, j, inside = block_pixels(block, out_height, out_width, PIXELS)
        label = classes_at(
            tap, labels, labels_b, labels_h, labels_w, image, i, j, inside, classes, height, width, stride, padding,
            ignored, COLUMNS,
        )  # fmt: skip
        own = (label // CLASSES == class_block) & (label >= 0)
        if tl.max(own.to(tl.int32), 0) + always > 0:
            mask = inside[:, None] & (o < out_channels)[None, :]
            pixel = image * grad_b + i.to(tl.int64) * grad_h + j.to(tl.int64) * grad_w
            g = tl.load(grad + (pixel[:, None] + o.to(tl.int64)[None, :] * grad_c), mask, 0.0)
            if ACTIVATION is not None:
                pixel = image * y_b + i.to(tl.int64) * y_h + j.to(tl.int64) * y_w
                value = tl.load(y + (pixel[:, None] + o.to(tl.int64)[None, :] * y_c), mask, 0.0).to(tl.float32)
                g = (g.to(tl.float32) * derivative(value, slope, ACTIVATION)).to(g.dtype)
            member = (label[None, :] == n[:, None]) | (every[:, None] & inside[None, :])
            total = tl.dot(member.to(g.dtype), g, total, input_precision=PRECISION)
    at = ((tl.program_id(2).to(tl.int64) * TAPS + tap) * rows + n[:, None]) * out_channels + o[None, :]
    tl.store(sums + at, total, (n < rows)[:, None] & (o < out_channels)[None, :])


# Tiles by what they compile to, never timed.
BY_CLASS = family("layout_classes", ("out_channels", "out_height", "out_width", "rows", "TAPS"), sum_by_class)


def forward(
    labels: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: int,
    padding: int,
    ignore_index: int,
    activation: str | None,
    negative_slope: float,
) -> Tensor:
    """The operation ``pyeqgan::layout_conv2d``: y in the memory format of weight.

    Raises:
        TypeError: weight is of another dtype than float32, bfloat16, float16.
    """
    arithmetic("layout_conv2d", "weight", weight.dtype)
    size = tuple((labels.shape[i] + 2 * padding - weight.shape[i + 1]) // stride + 1 for i in (1, 2))
    shape = (len(labels), len(weight), *size)
    y = torch.empty(shape, dtype=weight.dtype, device=weight.device, memory_format=memory_format_of(weight))
    if y.numel() == 0:
        return y

    def grid(meta: dict[str, int]) -> tuple[int, int]:
        return len(y) * blocks(y, meta["PIXELS"]), groups(y, meta["OUT"])

    convolution = Convolution(weight)
    with torch.cuda.device_of(weight):
        sum_rows[grid](
            labels, *labels.stride(), convolution.packed, None if bias is None else bias.contiguous(), *strided(y),
            *y.shape[1:], weight.shape[1], *labels.shape[1:], stride, padding, ignore_index, negative_slope,
            COLUMNS=weight.shape[3], TAPS=convolution.taps, ACTIVATION=activation,
        )  # fmt: skip
    return y


def backward(
    grad_y: Tensor,
    y: Tensor | None,
    labels: Tensor,
    num_classes: int,
    kernel_size: Sequence[int],
    stride: int,
    padding: int,
    ignore_index: int,
    activation: str | None,
    negative_slope: float,
    need_weight: bool,
    need_bias: bool,
) -> tuple[Tensor, Tensor]:
    """The operation ``pyeqgan::layout_conv2d_backward``; (0,) for a gradient that is not needed.

    Raises:
        TypeError: grad_y is of another dtype than float32, bfloat16, float16.
    """
    products, precision = arithmetic("layout_conv2d_backward", "grad_y", grad_y.dtype)
    channels, (height, width) = grad_y.shape[1], kernel_size
    classes, taps = (num_classes, height * width) if need_weight else (0, 1)
    rows, kernel = classes + need_bias, BY_CLASS[products]
    tile = {k: min(c.kwargs[k] for c in kernel.configs) for k in ("PIXELS", "CLASSES", "OUT")}
    items = len(grad_y) * blocks(grad_y, tile["PIXELS"])
    programs = triton.cdiv(rows, tile["CLASSES"]) * groups(grad_y, tile["OUT"]) * taps
    span = max(triton.cdiv(items, max(PROGRAMS // max(programs, 1), 1)), 1)
    sums = grad_y.new_zeros((triton.cdiv(items, span), taps, rows, channels), dtype=torch.float32)

    def grid(meta: dict[str, int]) -> tuple[int, int, int]:
        return triton.cdiv(rows, meta["CLASSES"]) * groups(grad_y, meta["OUT"]), taps, len(sums)

    if sums.numel():
        with torch.cuda.device_of(grad_y):
            kernel[grid](
                *strided(grad_y), *strided(y), labels, *labels.stride(), sums, *grad_y.shape[1:], rows, classes,
                len(labels), *labels.shape[1:], stride, padding, ignore_index, negative_slope, span,
                COLUMNS=width, TAPS=taps, ACTIVATION=None if y is None else activation, PRECISION=precision,
            )  # fmt: skip
    summed = sums.sum(0).to(grad_y.dtype)
    nothing = grad_y.new_empty(0)
    return (
        summed[:, :classes].permute(2, 1, 0).reshape(channels, classes, height, width).contiguous()
        if need_weight
        else nothing,
        summed[0, classes].clone() if need_bias else nothing.clone(),
    )
