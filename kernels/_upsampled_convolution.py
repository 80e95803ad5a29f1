"""A 3×3 convolution of an upsampled map and its gradients, as matrix products whose factors are gathered in place.

Output pixel (2i+a, 2j+b) of phase (a, b) sees two rows and two columns of the map before upsampling, by weights merged
from the 3×3: that is a coarse source. A fine source is of the output's size and is seen through all nine taps. Rows and
columns outside are clamped in a coarse source and reflected in a fine one, which after upsampling is the same. Nothing
is upsampled, joined or padded in memory. Weights are packed (phases, taps, source channels, output channels), with one
phase for a fine source.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
# The functions under @triton.jit are written in Triton's language; they have no Python types.

import triton
import triton.language as tl

from pyeqgan.kernels._image import block_pixels, split
from pyeqgan.kernels._normalization import activate, store_moments


@triton.jit
def seen(i, phase, tap, size, FINE: tl.constexpr):
    """The row (or column) of a source of this size that a tap of output 2i + phase sees."""
    at = i + phase + tap - 1
    if FINE:
        at = tl.abs(at + i)
        return tl.where(at >= size, 2 * size - 2 - at, at)
    return tl.minimum(tl.maximum(at, 0), size - 1)


@triton.jit
def seeing(at, phase, tap, size, FINE: tl.constexpr):
    """The output row that sees a row of the source by a tap, whether it exists, and the same of one at the border."""
    last = tl.where(tap == 0, 0, size - 1)
    if FINE:
        row = at + 1 - tap
        return row, (row >= 0) & (row < size), last, (tap != 1) & (at == tl.where(tap == 0, 1, size - 2))
    low = at + 1 - phase - tap
    return 2 * low + phase, (low >= 0) & (low < size), 2 * last + phase, (phase == tap) & (at == last)


@triton.jit
def add_source(
    total, source, stride_b, stride_c, stride_h, stride_w, weight, channels, out_channels, image, i, j, inside, o, a, b,
    height, width, FINE: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Total (PIXELS,OUT) plus what outputs (2i+a, 2j+b) see of a source."""
    taps: tl.constexpr = 3 if FINE else 2
    phase = 0 if FINE else 2 * a + b
    blocks = tl.cdiv(channels, DEPTH)
    for step in range(0, taps * taps * blocks):
        block, tap = split(step, blocks)
        c = block * DEPTH + tl.arange(0, DEPTH)
        y = seen(i, a, tap // taps, height, FINE).to(tl.int64) * stride_h
        x = seen(j, b, tap % taps, width, FINE).to(tl.int64) * stride_w
        at = image * stride_b + (y + x)[:, None] + c.to(tl.int64)[None, :] * stride_c
        value = tl.load(source + at, inside[:, None] & (c < channels)[None, :], 0.0)
        line = (tl.cast(phase * taps * taps + tap, tl.int64) * channels + c) * out_channels
        mask = (c < channels)[:, None] & (o < out_channels)[None, :]
        total = tl.dot(value, tl.load(weight + line[:, None] + o[None, :], mask, 0.0), total, input_precision=PRECISION)
    return total


@triton.jit
def convolve(
    x, x_b, x_c, x_h, x_w, x_weight, x_channels, skip, skip_b, skip_c, skip_h, skip_w, skip_weight, skip_channels,
    bias, y, y_b, y_c, y_h, y_w, moments, out_channels, height, width, slope,
    FINE: tl.constexpr, ACTIVATION: tl.constexpr, PRECISION: tl.constexpr,
    PIXELS: tl.constexpr, OUT: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Of y, activated, and (unless None) moments (images,blocks,phases,3,C): number, mean, squared deviations."""
    blocks = tl.cdiv(tl.cast(height, tl.int64) * width, PIXELS)
    block, image = split(tl.program_id(0).to(tl.int64), blocks)
    i, j, inside = block_pixels(block, height, width, PIXELS)
    o = tl.program_id(1) * OUT + tl.arange(0, OUT)
    phase = tl.program_id(2)
    a, b = phase // 2, phase % 2
    total = tl.zeros((PIXELS, OUT), tl.float32)
    total = add_source(
        total, x, x_b, x_c, x_h, x_w, x_weight, x_channels, out_channels, image, i, j, inside, o, a, b,
        height, width, False, DEPTH, PRECISION,
    )  # fmt: skip
    if skip is not None:
        total = add_source(
            total, skip, skip_b, skip_c, skip_h, skip_w, skip_weight, skip_channels, out_channels, image, i, j, inside,
            o, a, b, 2 * height if FINE else height, 2 * width if FINE else width, FINE, DEPTH, PRECISION,
        )  # fmt: skip
    real = o < out_channels
    if bias is not None:
        total += tl.load(bias + o, real, 0.0).to(tl.float32)[None, :]
    pixel = (2 * i + a).to(tl.int64) * y_h + (2 * j + b).to(tl.int64) * y_w
    at = image * y_b + pixel[:, None] + o.to(tl.int64)[None, :] * y_c
    tl.store(y + at, activate(total, slope, ACTIVATION), inside[:, None] & real[None, :])
    if moments is not None:
        store_moments(moments, (image * blocks + block) * 4 + phase, total, inside, o, out_channels)


@triton.jit
def input_gradient(
    grad, grad_b, grad_c, grad_h, grad_w, weight, source, source_b, source_c, source_h, source_w,
    channels, out_channels, height, width, FINE: tl.constexpr, PRECISION: tl.constexpr,
    PIXELS: tl.constexpr, OUT: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """The gradient of a source (B,channels,height,width): every output that sees a pixel gives its own to it."""
    taps: tl.constexpr = 3 if FINE else 2
    phases: tl.constexpr = 1 if FINE else 4
    block, image = split(tl.program_id(0).to(tl.int64), tl.cdiv(tl.cast(height, tl.int64) * width, PIXELS))
    i, j, inside = block_pixels(block, height, width, PIXELS)
    c = tl.program_id(1) * OUT + tl.arange(0, OUT)
    blocks = tl.cdiv(out_channels, DEPTH)
    total = tl.zeros((PIXELS, OUT), tl.float32)
    for step in range(0, phases * taps * taps * blocks):
        place, number = split(step, blocks)
        tap, phase = split(number, taps * taps)
        o = place * DEPTH + tl.arange(0, DEPTH)
        y, has_y, border_y, at_border_y = seeing(i, phase // 2, tap // taps, height, FINE)
        x, has_x, border_x, at_border_x = seeing(j, phase % 2, tap % taps, width, FINE)
        line = grad + image * grad_b + o.to(tl.int64)[None, :] * grad_c
        value = tl.zeros((PIXELS, DEPTH), tl.float32)
        for k in tl.static_range(4):  # of the border there are few: these reads are masked off elsewhere
            row, row_exists = (border_y, at_border_y) if k % 2 else (y, has_y)
            column, column_exists = (border_x, at_border_x) if k // 2 else (x, has_x)
            pixel = row.to(tl.int64) * grad_h + column.to(tl.int64) * grad_w
            mask = (inside & row_exists & column_exists)[:, None] & (o < out_channels)[None, :]
            value += tl.load(line + pixel[:, None], mask, 0.0).to(tl.float32)
        at = (tl.cast(number, tl.int64) * channels + c[None, :]) * out_channels + o[:, None]
        factor = tl.load(weight + at, (o < out_channels)[:, None] & (c < channels)[None, :], 0.0)
        total = tl.dot(value.to(factor.dtype), factor, total, input_precision=PRECISION)
    pixel = i.to(tl.int64) * source_h + j.to(tl.int64) * source_w
    at = image * source_b + pixel[:, None] + c.to(tl.int64)[None, :] * source_c
    tl.store(source + at, total, inside[:, None] & (c < channels)[None, :])


@triton.jit
def weight_gradient(
    grad, grad_b, grad_c, grad_h, grad_w, source, source_b, source_c, source_h, source_w, sums,
    channels, out_channels, batch, height, width, span, FINE: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, OUT: tl.constexpr, PIXELS: tl.constexpr,
):  # fmt: skip
    """Sums (segments,4,taps,channels,out_channels) over pixels of source · grad, for the coarse map (height,width).

    A segment is a run of ``span`` blocks of the pixels of all images.
    """
    taps: tl.constexpr = 3 if FINE else 2
    tap, phase = split(tl.program_id(1), taps * taps)
    a, b = phase // 2, phase % 2
    out_block, row_block = split(tl.program_id(0), tl.cdiv(out_channels, OUT))
    c = row_block * ROWS + tl.arange(0, ROWS)
    o = out_block * OUT + tl.arange(0, OUT)
    blocks = tl.cdiv(tl.cast(height, tl.int64) * width, PIXELS)
    first = tl.program_id(2).to(tl.int64) * span
    total = tl.zeros((ROWS, OUT), tl.float32)
    for item in range(first, tl.minimum(first + span, blocks * batch)):
        block, image = split(item, blocks)
        i, j, inside = block_pixels(block, height, width, PIXELS)
        y = seen(i, a, tap // taps, 2 * height if FINE else height, FINE).to(tl.int64) * source_h
        x = seen(j, b, tap % taps, 2 * width if FINE else width, FINE).to(tl.int64) * source_w
        at = image * source_b + (y + x)[:, None] + c.to(tl.int64)[None, :] * source_c
        left = tl.load(source + at, inside[:, None] & (c < channels)[None, :], 0.0)
        pixel = (2 * i + a).to(tl.int64) * grad_h + (2 * j + b).to(tl.int64) * grad_w
        at = image * grad_b + pixel[:, None] + o.to(tl.int64)[None, :] * grad_c
        right = tl.load(grad + at, inside[:, None] & (o < out_channels)[None, :], 0.0)
        total = tl.dot(tl.trans(left), right, total, input_precision=PRECISION)
    place = (tl.program_id(2).to(tl.int64) * 4 + phase) * taps * taps + tap
    at = (place * channels + c[:, None]) * out_channels + o[None, :]
    tl.store(sums + at, total, (c < channels)[:, None] & (o < out_channels)[None, :])
