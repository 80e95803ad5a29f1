"""Modulated normalisation of images (B,C,pixels), a tile of channels × pixels at a time, and its gradients.

z = x̂·(1 + gamma) + beta is activated, x̂ = (x − mean)/√(var + eps). Mean and var are (1,C), or (B,C) for instance norms:
``per_image`` is 0 or 1. A program walks ``extent`` pixels of some channels of an image; where WHOLE, these are all of
its pixels, in one tile, which stays in registers from its statistics to its result.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
# The functions under @triton.jit are written in Triton's language; they have no Python types.

import triton
import triton.language as tl

from pyeqgan.kernels._image import split
from pyeqgan.kernels._normalization import activate, derivative, statistic


@triton.jit
def walk(channels, pixels, extent, CHANNELS: tl.constexpr):
    """Image, channels, part of the image, first pixel and end of this program."""
    pixels = tl.cast(pixels, tl.int64)
    part, rest = split(tl.program_id(0).to(tl.int64), tl.cdiv(pixels, extent))
    group, image = split(rest, tl.cdiv(channels, CHANNELS))
    c = (group * CHANNELS).to(tl.int32) + tl.arange(0, CHANNELS)
    return image, c, part, part * extent, tl.minimum((part + 1) * extent, pixels)


@triton.jit
def tile(start, end, c, channels, PIXELS: tl.constexpr):
    """Pixels and (channels,pixels) mask of a step of the walk."""
    pixel = start + tl.arange(0, PIXELS)
    return pixel, (c < channels)[:, None] & (pixel < end)[None, :]


@triton.jit
def place(image, c, pixel, stride_b, stride_c, stride_p):
    """int64 offsets (channels,pixels) into an image of any strides."""
    return image * stride_b + c.to(tl.int64)[:, None] * stride_c + pixel[None, :] * stride_p


@triton.jit
def modulation(values, stride_b, stride_c, stride_p, image, c, pixel, channels, mask):
    """Gamma or beta of some pixels, float32: a map's, or (stride_p None) a column, the same for all pixels."""
    if stride_p is None:
        at = values + image * stride_b + c.to(tl.int64) * stride_c
        return tl.load(at, c < channels, 0.0).to(tl.float32)[:, None]
    else:  # what merely follows a return is compiled, too
        return tl.load(values + place(image, c, pixel, stride_b, stride_c, stride_p), mask, 0.0).to(tl.float32)


@triton.jit
def inverse(var, eps):
    """1/√(var + eps), rounded correctly: it is worked out once for many pixels."""
    return tl.div_rn(1.0, tl.sqrt_rn(var + eps))


@triton.jit
def moments(x, x_b, x_c, x_p, sums, channels, pixels, extent, CHANNELS: tl.constexpr, PIXELS: tl.constexpr):
    """Sums (B,parts,3,C): number, mean and squared deviations of what each program walks, for `join_moments`.

    By Welford's method in every place of the tile: neither a large mean nor single far values cost precision.
    """
    image, c, part, first, end = walk(channels, pixels, extent, CHANNELS)
    mean = tl.zeros((CHANNELS, PIXELS), tl.float32)
    squares = tl.zeros((CHANNELS, PIXELS), tl.float32)
    for start in range(first, end, PIXELS):
        pixel, mask = tile(start, end, c, channels, PIXELS)
        value = tl.load(x + place(image, c, pixel, x_b, x_c, x_p), mask, 0.0).to(tl.float32)
        value = tl.where(mask, value, mean)  # changes nothing
        difference = value - mean
        mean += difference * (1.0 / ((start - first) // PIXELS + 1).to(tl.float32))
        squares += difference * (value - mean)
    number = ((end - first - tl.arange(0, PIXELS) + PIXELS - 1) // PIXELS).to(tl.float32)[None, :]
    total = (end - first).to(tl.float32)
    centre = tl.sum(number * mean, 1) / total
    centre += tl.sum(number * (mean - centre[:, None]), 1) / total  # what it lacks by rounding
    difference = mean - centre[:, None]
    line = sums + (image * tl.cdiv(tl.cast(pixels, tl.int64), extent) + part) * 3 * channels + c
    tl.store(line, tl.zeros_like(centre) + total, c < channels)
    tl.store(line + channels, centre, c < channels)
    tl.store(line + 2 * channels, tl.sum(squares + number * difference * difference, 1), c < channels)


@triton.jit
def modulate(
    x, x_b, x_c, x_p, gamma, gamma_b, gamma_c, gamma_p, beta, beta_b, beta_c, beta_p, mean, var, per_image,
    y, y_b, y_c, y_p, eps, slope, channels, pixels, extent,
    ACTIVATION: tl.constexpr, WHOLE: tl.constexpr, CHANNELS: tl.constexpr, PIXELS: tl.constexpr,
):  # fmt: skip
    """Of y, by mean and var (None: no norm); where WHOLE these are results as well, of an instance norm."""
    image, c, _, first, end = walk(channels, pixels, extent, CHANNELS)
    for start in range(first, end, PIXELS):
        pixel, mask = tile(start, end, c, channels, PIXELS)
        value = tl.load(x + place(image, c, pixel, x_b, x_c, x_p), mask, 0.0).to(tl.float32)
        factor = 1.0 + modulation(gamma, gamma_b, gamma_c, gamma_p, image, c, pixel, channels, mask)
        shift = modulation(beta, beta_b, beta_c, beta_p, image, c, pixel, channels, mask)
        if WHOLE:
            centre = tl.sum(value, 1) / pixels
            centre += tl.sum(tl.where(mask, value - centre[:, None], 0.0), 1) / pixels  # what it lacks by rounding
            value = tl.where(mask, value - centre[:, None], 0.0)
            variance = tl.sum(value * value, 1) / pixels
            value *= inverse(variance, eps)[:, None]
            tl.store(mean + image * channels + c, centre, c < channels)
            tl.store(var + image * channels + c, variance, c < channels)
        elif mean is not None:
            value -= statistic(mean, image, c, channels, per_image)
            value *= inverse(statistic(var, image, c, channels, per_image), eps)
        z = activate(value * factor + shift, slope, ACTIVATION)
        tl.store(y + place(image, c, pixel, y_b, y_c, y_p), z, mask)


@triton.jit
def modulate_backward(
    grad, grad_b, grad_c, grad_p, x, x_b, x_c, x_p, gamma, gamma_b, gamma_c, gamma_p, beta, beta_b, beta_c, beta_p,
    mean, var, per_image, given, share, of_x, of_x_b, of_x_c, of_x_p, of_gamma, of_gamma_b, of_gamma_c, of_gamma_p,
    of_beta, of_beta_b, of_beta_c, of_beta_p, sums, eps, slope, channels, pixels, extent,
    ACTIVATION: tl.constexpr, WHOLE: tl.constexpr, CHANNELS: tl.constexpr, PIXELS: tl.constexpr,
):  # fmt: skip
    """The gradients of x and of the maps gamma and beta (unless None), and (unless None) sums (B,parts,2,C).

    With dz the gradient of z and h = dz·(1 + gamma), that of x is (h − share·Σh − x̂·share·Σhx̂)/√(var + eps). Its two
    sums (2,C) or (B,2,C) are given, or those of the tile where WHOLE, or 0 (given None) where the statistics are not
    x's. Sums: of dz and dz·x̂ where gamma is no map, else of h and h·x̂.
    """
    image, c, part, first, end = walk(channels, pixels, extent, CHANNELS)
    total = tl.zeros((CHANNELS, PIXELS), tl.float32)
    product = tl.zeros((CHANNELS, PIXELS), tl.float32)
    for start in range(first, end, PIXELS):
        pixel, mask = tile(start, end, c, channels, PIXELS)
        g = tl.load(grad + place(image, c, pixel, grad_b, grad_c, grad_p), mask, 0.0).to(tl.float32)
        unit = tl.load(x + place(image, c, pixel, x_b, x_c, x_p), mask, 0.0).to(tl.float32)
        factor = 1.0 + modulation(gamma, gamma_b, gamma_c, gamma_p, image, c, pixel, channels, mask)
        if mean is not None:
            spread = inverse(statistic(var, image, c, channels, per_image), eps)
            unit = tl.where(mask, (unit - statistic(mean, image, c, channels, per_image)) * spread, 0.0)
        if ACTIVATION is not None:
            shift = modulation(beta, beta_b, beta_c, beta_p, image, c, pixel, channels, mask)
            g *= derivative(activate(unit * factor + shift, slope, ACTIVATION), slope, ACTIVATION)
        if of_gamma is not None:
            tl.store(of_gamma + place(image, c, pixel, of_gamma_b, of_gamma_c, of_gamma_p), g * unit, mask)
        if of_beta is not None:
            tl.store(of_beta + place(image, c, pixel, of_beta_b, of_beta_c, of_beta_p), g, mask)
        h = g * factor
        summed = g if gamma_p is None else h
        total += summed
        product += summed * unit
        if of_x is not None:
            if WHOLE:
                h -= tl.sum(h, 1)[:, None] * share + unit * (tl.sum(h * unit, 1)[:, None] * share)
            elif given is not None:
                line = given + image * per_image * 2 * channels
                h -= share * statistic(line, 0, c, channels, 0)
                h -= unit * (share * statistic(line + channels, 0, c, channels, 0))
            if mean is not None:
                h *= spread
            tl.store(of_x + place(image, c, pixel, of_x_b, of_x_c, of_x_p), h, mask)
    if sums is not None:
        line = sums + (image * tl.cdiv(tl.cast(pixels, tl.int64), extent) + part) * 2 * channels + c
        tl.store(line, tl.sum(total, 1), c < channels)
        tl.store(line + channels, tl.sum(product, 1), c < channels)
