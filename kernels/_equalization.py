"""The two products of ``equalization_fusion``, each with what stands before it and the moments its norm needs.

Neither the joined maps nor, forward, the propagated features exist in memory: the weight is split by maps, and what is
propagated of a block of channels goes into the product at once.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
# The functions under @triton.jit are written in Triton's language; they have no Python types.

import triton
import triton.language as tl

from pyeqgan.kernels._image import block_pixels, offsets, split
from pyeqgan.kernels._normalization import store_moments
from pyeqgan.kernels._padded_convolution import add_product
from pyeqgan.kernels.bilateral_propagation import filter_line, gate_column


@triton.jit
def fuse(
    structure, structure_b, structure_c, structure_h, structure_w, structure_weight, structure_channels,
    texture, texture_b, texture_c, texture_h, texture_w, texture_weight, texture_channels,
    detail, detail_b, detail_c, detail_h, detail_w, detail_weight, detail_channels,
    bias, y, y_b, y_c, y_h, y_w, moments, out_channels, height, width,
    PRECISION: tl.constexpr, PIXELS: tl.constexpr, OUT: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Of y, and (unless None) moments (images,blocks,3,C): number, mean, squared deviations. Detail may be None."""
    block, image = split(tl.program_id(0).to(tl.int64), tl.cdiv(tl.cast(height, tl.int64) * width, PIXELS))
    i, j, inside = block_pixels(block, height, width, PIXELS)
    o = tl.program_id(1) * OUT + tl.arange(0, OUT)
    total = tl.zeros((PIXELS, OUT), tl.float32)
    total = add_product(
        total, structure, structure_b, structure_c, structure_h, structure_w, structure_weight, structure_channels,
        out_channels, image, i, j, inside, o, height, width, 0, 0.0, 1, 1, "zeros", None, PRECISION, DEPTH,
    )  # fmt: skip
    total = add_product(
        total, texture, texture_b, texture_c, texture_h, texture_w, texture_weight, texture_channels,
        out_channels, image, i, j, inside, o, height, width, 0, 0.0, 1, 1, "zeros", None, PRECISION, DEPTH,
    )  # fmt: skip
    if detail is not None:
        total = add_product(
            total, detail, detail_b, detail_c, detail_h, detail_w, detail_weight, detail_channels,
            out_channels, image, i, j, inside, o, height, width, 0, 0.0, 1, 1, "zeros", None, PRECISION, DEPTH,
        )  # fmt: skip
    if bias is not None:
        total += tl.load(bias + o, o < out_channels, 0.0).to(tl.float32)[None, :]
    pixel = image * y_b + i.to(tl.int64) * y_h + j.to(tl.int64) * y_w
    target = y + (pixel[:, None] + o.to(tl.int64)[None, :] * y_c)
    tl.store(target, total, inside[:, None] & (o < out_channels)[None, :])
    if moments is not None:
        store_moments(moments, tl.program_id(0).to(tl.int64), total, inside, o, out_channels)


@triton.jit
def propagate_and_mix(
    x, x_b, x_c, x_h, x_w, gate, affinity, inverse_y, scratch, weight, y, y_b, y_c, y_h, y_w, moments,
    channels, out_channels, height, width, sigma, reach,
    PRECISION: tl.constexpr, PIXELS: tl.constexpr, OUT: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Of y and (unless None) moments, as `fuse`: what is propagated of x, by weight (2C,out_channels).

    As `bilateral_propagation.propagate_forward`, of DEPTH channels at a time: A_H scratch, and the 3×3 neighbours of v
    weighted by affinity, which the pixels of a program need again for each of them.
    """
    pixels = tl.cast(height, tl.int64) * width
    block, image = split(tl.program_id(0).to(tl.int64), tl.cdiv(pixels, PIXELS))
    i, j, inside = block_pixels(block, height, width, PIXELS)
    o = tl.program_id(1) * OUT + tl.arange(0, OUT)
    weights = affinity + image * 9 * pixels + i.to(tl.int64) * width + j
    total = tl.zeros((PIXELS, OUT), tl.float32)
    for first in range(0, channels, DEPTH):
        c = first + tl.arange(0, DEPTH)
        mask = (c < channels)[:, None] & inside[None, :]
        line = scratch + offsets(image, c, tl.zeros_like(i), j, channels * pixels, pixels, width, 1)
        spatial = filter_line(line, width, inverse_y, i, height, mask, sigma, reach, False)
        ranged = tl.zeros((DEPTH, PIXELS), tl.float32)
        for n in tl.static_range(9):
            row, column = i + n // 3 - 1, j + n % 3 - 1
            linked = inside & (row >= 0) & (row < height) & (column >= 0) & (column < width)
            value = tl.load(x + offsets(image, c, row, column, x_b, x_c, x_h, x_w), mask & linked[None, :], 0.0)
            ranged += tl.load(weights + n * pixels, linked, 0.0)[None, :] * value.to(tl.float32)
        ranged *= gate_column(gate, image, c, channels)
        at = c.to(tl.int64)[:, None] * out_channels + o[None, :]
        real = (c < channels)[:, None] & (o < out_channels)[None, :]
        of_spatial = tl.load(weight + at, real, 0.0)
        of_ranged = tl.load(weight + (at + tl.cast(channels, tl.int64) * out_channels), real, 0.0)
        spatial, ranged = tl.trans(spatial).to(of_spatial.dtype), tl.trans(ranged).to(of_ranged.dtype)
        total = tl.dot(spatial, of_spatial, total, input_precision=PRECISION)
        total = tl.dot(ranged, of_ranged, total, input_precision=PRECISION)
    pixel = image * y_b + i.to(tl.int64) * y_h + j.to(tl.int64) * y_w
    target = y + (pixel[:, None] + o.to(tl.int64)[None, :] * y_c)
    tl.store(target, total, inside[:, None] & (o < out_channels)[None, :])
    if moments is not None:
        store_moments(moments, tl.program_id(0).to(tl.int64), total, inside, o, out_channels)
