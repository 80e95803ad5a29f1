"""``skip_decoder_block`` in Triton: the maths of ops.md section 4, forward and backward.

The convolution is four products of matrices, one for each phase of the output, that read x and the skip where they are;
its statistics are summed where its result is written. Any strides; both memory formats are written in place. float32,
bfloat16 and float16, all sums in float32; no atomics. The backward: the norm's and the activation's in two passes, then
one product for x, one for the skip and one for each one's weights.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from pyeqgan.kernels import _upsampled_convolution as convolution
from pyeqgan.kernels._launch import blocks, strided
from pyeqgan.kernels._norm import Norm, statistics
from pyeqgan.kernels._products import arithmetic, family
from pyeqgan.ops._library import empty_image

PROGRAMS = 256  # wanted in a launch of weight_gradient, which cuts the pixels into segments for it
# Tiles by what they compile to, never timed: 128 pixels by 64 channels feed two warpgroups, of which none spills.
FORWARD = family("decoder_forward", ("x_channels", "out_channels", "height", "width"), convolution.convolve)
INPUT, WEIGHT = (
    family(f"decoder_{name}", ("channels", "out_channels", "height", "width"), kernel)
    for name, kernel in (("input", convolution.input_gradient), ("weight", convolution.weight_gradient))
)


class _Source(NamedTuple):
    """x or the skip, and its share of the weight."""

    image: Tensor
    fine: bool
    weight: Tensor  # (Co,C,3,3)

    @property
    def merge(self) -> Tensor:
        """(phases,taps,3,3): which of the nine taps a phase sees as one."""
        if self.fine:
            return torch.eye(9, device=self.weight.device).view(1, 9, 3, 3)
        axis = torch.zeros((2, 2, 3), device=self.weight.device)
        axis[0, 0, 0] = axis[0, 1, 1:] = axis[1, 0, :2] = axis[1, 1, 2] = 1
        return torch.einsum("apy,bqx->abpqyx", axis, axis).reshape(4, 4, 3, 3)

    @property
    def packed(self) -> Tensor:
        """The weight (phases,taps,C,Co) as the kernels read it."""
        merged = torch.einsum("ptyx,ocyx->ptco", self.merge, self.weight.float())
        return merged.to(self.weight.dtype).contiguous()


def _sources(x: Tensor, skip: Tensor | None, weight: Tensor) -> list[_Source]:
    sources = [_Source(x, False, weight[:, : x.shape[1]])]
    if skip is not None:
        sources.append(_Source(skip, skip.shape[2] != x.shape[2], weight[:, x.shape[1] :]))
    return sources


def forward(
    x: Tensor,
    skip: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    norm: str | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    eps: float,
    activation: str | None,
    negative_slope: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The operation ``pyeqgan::skip_decoder_block``: y and (with a norm, else (0,)) pre, like x; mean and var float32.

    Raises:
        TypeError: x is of another dtype than float32, bfloat16, float16.
    """
    products, precision = arithmetic("skip_decoder_block", "x", x.dtype)
    batch, _, height, width = x.shape
    features = weight.shape[0]
    y = empty_image(x, features, 2 * height, 2 * width)
    pre = x.new_empty(0) if norm is None else torch.empty_like(y)
    own = norm == "instance" or (norm == "batch" and training)
    nothing = x.new_empty(0, dtype=torch.float32)
    if y.numel() == 0:
        if norm is None:
            return y, pre, nothing, nothing.clone()
        parts = nothing.new_zeros((batch, 1, 3, features)) if own else None
        return y, pre, *statistics(norm, running_mean, running_var, parts)
    kernel = FORWARD[products]
    with torch.cuda.device_of(x):
        smallest = min(c.kwargs["PIXELS"] for c in kernel.configs)
        moments = nothing.new_empty(batch * blocks(x, smallest) * 4 * 3 * features) if own else None
        sources = _sources(x, skip, weight)
        read: list[Any] = []
        for source in sources:
            read += [*strided(source.image), source.packed, source.image.shape[1]]
        if skip is None:
            read += [*strided(None), None, 0]

        def grid(meta: dict[str, int]) -> tuple[int, int, int]:
            return batch * blocks(x, meta["PIXELS"]), triton.cdiv(features, meta["OUT"]), 4

        kernel[grid](
            *read, None if bias is None else bias.contiguous(), *strided(y if norm is None else pre), moments,
            features, height, width, negative_slope,
            FINE=sources[-1].fine, ACTIVATION=activation if norm is None else None, PRECISION=precision,
        )  # fmt: skip
        if norm is None:
            return y, pre, nothing, nothing.clone()
        parts = None
        if moments is not None:
            used = blocks(x, kernel.best_config.kwargs["PIXELS"]) * 4
            parts = moments[: batch * used * 3 * features].view(batch, used, 3, features)
        mean, var = statistics(norm, running_mean, running_var, parts)
        Norm(norm, norm_weight, norm_bias, mean, var, own, eps, activation, negative_slope).apply(pre, y)
    return y, pre, mean, var


def backward(
    grad_y: Tensor,
    x: Tensor,
    skip: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    norm: str | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    saved: Tensor,
    mean: Tensor,
    var: Tensor,
    training: bool,
    eps: float,
    activation: str | None,
    negative_slope: float,
    need_x: bool,
    need_skip: bool,
    need_weight: bool,
    need_bias: bool,
    need_norm_weight: bool,
    need_norm_bias: bool,
) -> tuple[Tensor, ...]:
    """The operation ``pyeqgan::skip_decoder_block_backward``; (0,) for a gradient that is not needed.

    Raises:
        TypeError: x is of another dtype than float32, bfloat16, float16.
    """
    products, precision = arithmetic("skip_decoder_block_backward", "x", x.dtype)
    own = norm == "instance" or (norm == "batch" and training)
    empty = x.new_empty(0)
    grads: list[Tensor] = [empty] * 6
    with torch.cuda.device_of(x):
        applied = Norm(norm, norm_weight, norm_bias, mean, var, own, eps, activation, negative_slope)
        grad, of_weight, of_bias = applied.gradients(grad_y, saved)
        sources = _sources(x, skip, weight)
        for i, (source, needed) in enumerate(zip(sources, (need_x, need_skip), strict=False)):
            if needed:
                grads[i] = _input_gradient(grad, source, products, precision)
        if need_weight:
            grads[2] = torch.cat([_weight_gradient(grad, s, x, products, precision) for s in sources], 1)
        if need_bias:
            # A norm by the batch's own statistics takes any bias away.
            grads[3] = weight.new_zeros(weight.shape[:1]) if own else grad.sum((0, 2, 3))
    if need_norm_weight and norm_weight is not None:
        grads[4] = of_weight.to(norm_weight.dtype)
    if need_norm_bias and norm_bias is not None:
        grads[5] = of_bias.to(norm_bias.dtype)
    return tuple(grads)


def _input_gradient(grad: Tensor, source: _Source, products: str, precision: str) -> Tensor:
    image = source.image
    result = empty_image(image, image.shape[1])
    if result.numel() == 0:
        return result

    def grid(meta: dict[str, int]) -> tuple[int, int]:
        return image.shape[0] * blocks(image, meta["PIXELS"]), triton.cdiv(image.shape[1], meta["OUT"])

    INPUT[products][grid](
        *strided(grad), source.packed, *strided(result), image.shape[1], grad.shape[1], *image.shape[2:],
        FINE=source.fine, PRECISION=precision,
    )  # fmt: skip
    return result


def _weight_gradient(grad: Tensor, source: _Source, x: Tensor, products: str, precision: str) -> Tensor:
    """Of the share of the weight, (Co,C,3,3), for the coarse map of x."""
    image, kernel = source.image, WEIGHT[products]
    channels, features, taps = image.shape[1], grad.shape[1], source.merge.shape[1]
    if image.numel() == 0:
        return torch.zeros_like(source.weight)
    tile = {k: min(c.kwargs[k] for c in kernel.configs) for k in ("PIXELS", "ROWS", "OUT")}
    items = len(x) * blocks(x, tile["PIXELS"])
    programs = triton.cdiv(channels, tile["ROWS"]) * triton.cdiv(features, tile["OUT"]) * 4 * taps
    span = triton.cdiv(items, max(PROGRAMS // programs, 1))
    segments = triton.cdiv(items, span)
    sums = grad.new_zeros((segments, 4, taps, channels, features), dtype=torch.float32)

    def grid(meta: dict[str, int]) -> tuple[int, int, int]:
        return triton.cdiv(channels, meta["ROWS"]) * triton.cdiv(features, meta["OUT"]), 4 * taps, segments

    kernel[grid](
        *strided(grad), *strided(image), sums, channels, features, *x.shape[:1], *x.shape[2:], span,
        FINE=source.fine, PRECISION=precision,
    )  # fmt: skip
    packed = sums.sum((0, 1), keepdim=True)[0] if source.fine else sums.sum(0)
    return torch.einsum("ptco,ptyx->ocyx", packed, source.merge).to(source.weight.dtype)
