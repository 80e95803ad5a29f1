"""Normalisation and activation of images by given statistics, and their gradients, a block of channels x pixels each.

A statistic is (1,C), or (B,C) for instance norms: ``per_image`` is 0 or 1. z = (x − mean)·scale + shift is activated.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
# The functions under @triton.jit are written in Triton's language; they have no Python types.

import triton
import triton.language as tl

from pyeqgan.kernels._config import tiled
from pyeqgan.kernels._image import block_of_image, offsets, split

SIZE = ("channels", "height", "width")


@triton.jit
def activate(z, slope, ACTIVATION: tl.constexpr):
    """relu, leaky_relu or tanh of z, or z itself."""
    if ACTIVATION == "relu":
        return tl.where(z < 0.0, 0.0, z)
    if ACTIVATION == "leaky_relu":
        return tl.where(z < 0.0, z * slope, z)
    if ACTIVATION == "tanh":
        return 1.0 - 2.0 / (tl.exp(2.0 * z) + 1.0)
    return z


@triton.jit
def derivative(y, slope, ACTIVATION: tl.constexpr):
    """Of the activation, by its result."""
    if ACTIVATION == "relu":
        return tl.where(y > 0.0, 1.0, 0.0)
    if ACTIVATION == "leaky_relu":
        return tl.where(y > 0.0, 1.0, slope)
    if ACTIVATION == "tanh":
        return 1.0 - y * y
    return tl.full(y.shape, 1.0, tl.float32)


@triton.jit
def statistic(values, image, c, channels, per_image):
    """Of some channels, as a column."""
    return tl.load(values + image * per_image * channels + c, c < channels, 0.0)[:, None]


@triton.jit
def store_moments(moments, part, value, inside, c, channels):
    """Of value (pixels,channels) the number, mean and squared deviations of each channel: moments (parts,3,C)."""
    real = c < channels
    number = tl.sum(inside.to(tl.float32), 0)
    mean = tl.sum(tl.where(inside[:, None], value, 0.0), 0) / number
    deviation = tl.where(inside[:, None], value - mean[None, :], 0.0)
    line = moments + part * 3 * channels + c
    tl.store(line, tl.zeros_like(mean) + number, real)
    tl.store(line + channels, mean, real)
    tl.store(line + 2 * channels, tl.sum(deviation * deviation, 0), real)


@tiled("moments", ("channels", "parts"))
@triton.jit
def join_moments(moments, mean, var, parts, channels, CHANNELS: tl.constexpr, PARTS: tl.constexpr):
    """Mean and var (groups,C) of what moments (groups,parts,3,C) say of parts of a group."""
    block, group = split(tl.program_id(0).to(tl.int64), tl.cdiv(channels, CHANNELS))
    c = block * CHANNELS + tl.arange(0, CHANNELS)
    total = tl.zeros((CHANNELS,), tl.float32)
    centre = tl.zeros((CHANNELS,), tl.float32)
    for first in range(0, parts, PARTS):
        number, each, _ = moments_of(moments, group, first, parts, c, channels, PARTS)
        total += tl.sum(number, 0)
        centre += tl.sum(number * each, 0)
    centre /= total
    lacking = tl.zeros((CHANNELS,), tl.float32)
    squares = tl.zeros((CHANNELS,), tl.float32)
    for first in range(0, parts, PARTS):
        number, each, square = moments_of(moments, group, first, parts, c, channels, PARTS)
        difference = each - centre[None, :]
        lacking += tl.sum(number * difference, 0)
        squares += tl.sum(square + number * difference * difference, 0)
    lacking /= total  # by rounding
    variance = squares / total - lacking * lacking
    tl.store(mean + group * channels + c, centre + lacking, c < channels)
    tl.store(var + group * channels + c, tl.where(variance < 0.0, 0.0, variance), c < channels)


@triton.jit
def moments_of(moments, group, first, parts, c, channels, PARTS: tl.constexpr):
    """Number, mean and squared deviations (PARTS,CHANNELS) of some parts; zeros of those that are not there."""
    part = first + tl.arange(0, PARTS)
    mask = (part < parts)[:, None] & (c < channels)[None, :]
    line = moments + (group * parts + part.to(tl.int64))[:, None] * 3 * channels + c[None, :]
    number = tl.load(line, mask, 0.0)
    return number, tl.load(line + channels, mask, 0.0), tl.load(line + 2 * channels, mask, 0.0)


@tiled("normalization", SIZE)
@triton.jit
def normalize(
    x, x_b, x_c, x_h, x_w, mean, scale, shift, per_image, y, y_b, y_c, y_h, y_w, sums, channels, height, width, slope,
    ACTIVATION: tl.constexpr, CHANNELS: tl.constexpr, PIXELS: tl.constexpr,
):  # fmt: skip
    """Of x, z activated (without a norm, mean None, x itself), and (unless None) its sums (B,blocks,C) over pixels."""
    image, c, row, column, mask, block = block_of_image(channels, height, width, CHANNELS, PIXELS)
    z = tl.load(x + offsets(image, c, row, column, x_b, x_c, x_h, x_w), mask, 0.0).to(tl.float32)
    if mean is not None:
        z -= statistic(mean, image, c, channels, per_image)
        z = z * statistic(scale, image, c, channels, per_image) + statistic(shift, image, c, channels, 0)
    z = activate(z, slope, ACTIVATION)
    tl.store(y + offsets(image, c, row, column, y_b, y_c, y_h, y_w), z, mask)
    if sums is not None:
        blocks = tl.cdiv(tl.cast(height, tl.int64) * width, PIXELS)
        tl.store(sums + (image * blocks + block) * channels + c, tl.sum(tl.where(mask, z, 0.0), 1), c < channels)


@triton.jit
def gradient(grad, grad_b, grad_c, grad_h, grad_w, pooled, image, c, row, column, mask, channels):
    """Of y: as it comes in, and (unless None) pooled (B,C), what every pixel of a channel receives besides."""
    g = tl.load(grad + offsets(image, c, row, column, grad_b, grad_c, grad_h, grad_w), mask, 0.0).to(tl.float32)
    if pooled is not None:
        g += tl.where(mask, statistic(pooled, image, c, channels, 1), 0.0)
    return g


@triton.jit
def gradient_of_z(grad, unit, weight, shift, slope, ACTIVATION: tl.constexpr):
    """From the gradient of y, for unit = (x − mean)/σ."""
    return grad * derivative(activate(unit * weight + shift, slope, ACTIVATION), slope, ACTIVATION)


@tiled("normalization", SIZE)
@triton.jit
def sum_gradients(
    grad, grad_b, grad_c, grad_h, grad_w, pooled, x, x_b, x_c, x_h, x_w, mean, inverse, weight, shift, per_image, sums,
    channels, height, width, slope, ACTIVATION: tl.constexpr, CHANNELS: tl.constexpr, PIXELS: tl.constexpr,
):  # fmt: skip
    """Sums (B,blocks,2,C) over blocks of pixels: of the gradient of z, and of it times unit."""
    image, c, row, column, mask, block = block_of_image(channels, height, width, CHANNELS, PIXELS)
    value = tl.load(x + offsets(image, c, row, column, x_b, x_c, x_h, x_w), mask, 0.0).to(tl.float32)
    g = gradient(grad, grad_b, grad_c, grad_h, grad_w, pooled, image, c, row, column, mask, channels)
    unit = (value - statistic(mean, image, c, channels, per_image)) * statistic(inverse, image, c, channels, per_image)
    unit = tl.where(mask, unit, 0.0)
    of_shift, of_weight = statistic(shift, image, c, channels, 0), statistic(weight, image, c, channels, 0)
    g = gradient_of_z(g, unit, of_weight, of_shift, slope, ACTIVATION)
    blocks = tl.cdiv(tl.cast(height, tl.int64) * width, PIXELS)
    part = sums + (image * blocks + block) * 2 * channels + c
    tl.store(part, tl.sum(g, 1), c < channels)
    tl.store(part + channels, tl.sum(g * unit, 1), c < channels)


@tiled("normalization", SIZE)
@triton.jit
def normalize_backward(
    grad, grad_b, grad_c, grad_h, grad_w, pooled, x, x_b, x_c, x_h, x_w, mean, inverse, weight, shift,
    mean_grad, mean_product, per_image, out, out_b, out_c, out_h, out_w, channels, height, width, slope,
    ACTIVATION: tl.constexpr, CHANNELS: tl.constexpr, PIXELS: tl.constexpr,
):  # fmt: skip
    """The gradient of x: weight/σ · (gradient of z − its mean − unit · the mean of their product).

    Without a norm (mean None) x is y, and only the activation is differentiated.
    """
    image, c, row, column, mask, _ = block_of_image(channels, height, width, CHANNELS, PIXELS)
    value = tl.load(x + offsets(image, c, row, column, x_b, x_c, x_h, x_w), mask, 0.0).to(tl.float32)
    g = gradient(grad, grad_b, grad_c, grad_h, grad_w, pooled, image, c, row, column, mask, channels)
    if mean is None:
        g *= derivative(value, slope, ACTIVATION)
    else:
        spread = statistic(inverse, image, c, channels, per_image)
        unit = (value - statistic(mean, image, c, channels, per_image)) * spread
        of_shift, of_weight = statistic(shift, image, c, channels, 0), statistic(weight, image, c, channels, 0)
        g = gradient_of_z(g, unit, of_weight, of_shift, slope, ACTIVATION)
        g -= statistic(mean_grad, image, c, channels, per_image)
        g -= unit * statistic(mean_product, image, c, channels, per_image)
        g *= spread * of_weight
    tl.store(out + offsets(image, c, row, column, out_b, out_c, out_h, out_w), g, mask)
