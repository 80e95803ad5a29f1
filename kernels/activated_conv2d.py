"""``activated_conv2d`` in Triton: the maths of ops.md section 7, forward and backward.

One product of matrices each for the result, the gradient of x and that of the weight; all three read x and the incoming
gradient where they are. Any strides; both memory formats are written in place. float32, bfloat16 and float16, all sums
in float32; no atomics. The second order is this operation again.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from pyeqgan.kernels import _padded_convolution as convolution
from pyeqgan.kernels._launch import blocks, groups, strided
from pyeqgan.kernels._products import arithmetic, family
from pyeqgan.ops._library import empty_image

PROGRAMS = 256  # wanted in a launch of weight_gradient, which cuts the pixels into segments for it
# Tiles by what they compile to, never timed.
FORWARD, INPUT, WEIGHT = (
    family(f"convolution_{name}", ("channels", "out_channels", "out_height", "out_width", "TAPS"), kernel)
    for name, kernel in (
        ("forward", convolution.convolve),
        ("input", convolution.input_gradient),
        ("weight", convolution.weight_gradient),
    )
)


class Convolution(NamedTuple):
    """What is done to a map on its way into a product with ``weight`` (Co,C,kh,kw)."""

    weight: Tensor
    activation: str | None = None
    negative_slope: float = 0.0
    padding: int = 0
    padding_mode: str = "zeros"

    @property
    def taps(self) -> int:
        """Of its kernel."""
        return self.weight.shape[2] * self.weight.shape[3]

    @property
    def packed(self) -> Tensor:
        """The weight (taps,C,Co) as the kernels read it."""
        return self.weight.permute(2, 3, 1, 0).contiguous()

    @property
    def constants(self) -> dict[str, Any]:
        """Of every launch."""
        return {
            "COLUMNS": self.weight.shape[3],
            "TAPS": self.taps,
            "MODE": self.padding_mode,
            "ACTIVATION": self.activation,
        }

    def size(self, x: Tensor, y: Tensor) -> tuple[Any, ...]:
        """Of the map and of the result, padding and slope, as every launch is told."""
        return *x.shape[2:], *y.shape[2:], self.padding, self.negative_slope


def forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: str | None,
    negative_slope: float,
    padding: int,
    padding_mode: str,
) -> Tensor:
    """The operation ``pyeqgan::activated_conv2d``: y like x.

    Raises:
        TypeError: x is of another dtype than float32, bfloat16, float16.
    """
    products, precision = arithmetic("activated_conv2d", "x", x.dtype)
    conv = Convolution(weight, activation, negative_slope, padding, padding_mode)
    height, width = (x.shape[i] + 2 * padding - weight.shape[i] + 1 for i in (2, 3))
    y = empty_image(x, weight.shape[0], height, width)
    if y.numel():
        with torch.cuda.device_of(x):
            FORWARD[products][_grid(y, height * width)](
                *strided(x), conv.packed, None if bias is None else bias.contiguous(), *strided(y),
                x.shape[1], y.shape[1], *conv.size(x, y), **conv.constants, PRECISION=precision,
            )  # fmt: skip
    return y


def backward(
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
    """The operation ``pyeqgan::activated_conv2d_backward``; (0,) for a gradient that is not needed.

    Raises:
        TypeError: x is of another dtype than float32, bfloat16, float16.
    """
    products, precision = arithmetic("activated_conv2d_backward", "x", x.dtype)
    conv = Convolution(weight, activation, negative_slope, padding, padding_mode)
    nothing = x.new_empty(0)
    with torch.cuda.device_of(x):
        return (
            input_gradient(grad_y, x, conv, products, precision) if need_x else nothing,
            weight_gradient(grad_y, x, conv, products, precision) if need_weight else nothing.clone(),
            grad_y.sum((0, 2, 3)) if need_bias else nothing.clone(),
        )


def _grid(image: Tensor, pixels: int) -> Any:
    """Of programs that take some pixels of an image and OUT of its channels each."""

    def grid(meta: dict[str, int]) -> tuple[int, int]:
        return len(image) * triton.cdiv(pixels, meta["PIXELS"]), groups(image, meta["OUT"])

    return grid


def input_gradient(grad_y: Tensor, x: Tensor, conv: Convolution, products: str, precision: str) -> Tensor:
    """The gradient of x, like x. Of x nothing but its activation's derivative is read."""
    result = empty_image(x, x.shape[1])
    if result.numel() == 0:
        return result
    height, width = x.shape[2:]
    folds, band = {"zeros": (1, 0), "reflect": (3, conv.padding + 1), "replicate": (2 * conv.padding + 1, 1)}[
        conv.padding_mode if conv.padding else "zeros"
    ]
    inner = max(height - 2 * band, 0) * max(width - 2 * band, 0)
    packed = conv.packed
    for border, pixels in ((False, inner and height * width), (True, height * width - inner)):
        if pixels:
            INPUT[products][_grid(x, pixels)](
                *strided(grad_y), packed, *strided(x), *strided(result), x.shape[1], grad_y.shape[1],
                *conv.size(x, grad_y), folds, band, **conv.constants, BORDER=border, PRECISION=precision,
            )  # fmt: skip
    return result


def weight_gradient(grad_y: Tensor, x: Tensor, conv: Convolution, products: str, precision: str) -> Tensor:
    """The gradient of the weight, like it."""
    if grad_y.numel() == 0 or x.numel() == 0:
        return torch.zeros_like(conv.weight, memory_format=torch.contiguous_format)
    kernel, channels, features = WEIGHT[products], x.shape[1], grad_y.shape[1]
    tile = {k: min(c.kwargs[k] for c in kernel.configs) for k in ("PIXELS", "ROWS", "OUT")}
    items = len(x) * blocks(grad_y, tile["PIXELS"])
    programs = groups(x, tile["ROWS"]) * groups(grad_y, tile["OUT"]) * conv.taps
    span = triton.cdiv(items, max(PROGRAMS // programs, 1))
    sums = grad_y.new_zeros((triton.cdiv(items, span), conv.taps, channels, features), dtype=torch.float32)
    kernel[lambda meta: (groups(x, meta["ROWS"]) * groups(grad_y, meta["OUT"]), conv.taps, len(sums))](
        *strided(grad_y), *strided(x), sums, channels, features, len(x), *conv.size(x, grad_y), span,
        **conv.constants, PRECISION=precision,
    )  # fmt: skip
    rows, columns = conv.weight.shape[2:]
    summed = sums.sum(0).view(rows, columns, channels, features).permute(3, 2, 0, 1)
    return summed.to(x.dtype, memory_format=torch.contiguous_format).contiguous()
