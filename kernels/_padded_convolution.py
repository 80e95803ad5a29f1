"""A convolution of an activated, padded map and its gradients, as matrix products whose factors are gathered in place.

Padding is index arithmetic and activation happens where the map is read: neither exists in memory. Weights are packed
(taps, channels, output channels). A pixel of the map is seen through every tap once from the middle of the padded map,
and again from each place of its border that repeats it: the gradient of pixels that are repeated has a launch of its
own, for they are few.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
# The functions under @triton.jit are written in Triton's language; they have no Python types.

import triton
import triton.language as tl

from pyeqgan.kernels._image import block_pixels, split
from pyeqgan.kernels._normalization import activate, derivative


@triton.jit
def seen(at, size, MODE: tl.constexpr):
    """The row (or column) of the map that stands at one of the padded map, and whether there is one."""
    if MODE == "reflect":
        at = tl.abs(at)
        at = tl.where(at >= size, 2 * size - 2 - at, at)
    if MODE == "replicate":
        at = tl.minimum(tl.maximum(at, 0), size - 1)
    return at, (at >= 0) & (at < size)


@triton.jit
def place(at, fold, size, padding, MODE: tl.constexpr):
    """Where in the padded map a row stands for the fold-th time, from 0, and whether it does."""
    first = at + padding
    if MODE == "reflect":
        low, high = padding - at, padding + 2 * size - 2 - at
        row = tl.where(fold == 0, first, tl.where(fold == 1, low, high))
        return row, (fold == 0) | ((fold == 1) & (at > 0)) | ((fold == 2) & (at < size - 1))
    low = (fold <= padding) & (at == 0)
    high = (fold > padding) & (at == size - 1)
    row = tl.where(fold == 0, first, tl.where(fold <= padding, fold - 1, size + fold - 1))
    return row, (fold == 0) | low | high


@triton.jit
def border_pixels(block, band, height, width, PIXELS: tl.constexpr):
    """As block_pixels, of those alone that are less than ``band`` away from the border."""
    n = block * PIXELS + tl.arange(0, PIXELS)
    rows, columns = tl.minimum(2 * band, height), tl.minimum(2 * band, width)
    rest = n - tl.cast(rows, tl.int64) * width
    across = rest < 0  # in the rows above and below; the others lie left and right
    row = tl.where(across, n // width, 0).to(tl.int32)
    row = tl.where((row >= band) & (height > 2 * band), height - 2 * band + row, row)
    rest = tl.maximum(rest, 0)
    column = (rest % columns).to(tl.int32)
    column = tl.where((column >= band) & (width > 2 * band), width - 2 * band + column, column)
    y = tl.where(across, row, (band + rest // columns).to(tl.int32))
    x = tl.where(across, (n % width).to(tl.int32), column)
    return y, x, across | (rest < tl.cast(height - rows, tl.int64) * columns)


@triton.jit
def add_product(
    total, x, x_b, x_c, x_h, x_w, weight, channels, out_channels, image, i, j, inside, o, height, width, padding, slope,
    COLUMNS: tl.constexpr, TAPS: tl.constexpr, MODE: tl.constexpr, ACTIVATION: tl.constexpr, PRECISION: tl.constexpr,
    DEPTH: tl.constexpr,
):  # fmt: skip
    """Total (PIXELS,OUT) plus what outputs (i, j) see of a map, by a kernel of TAPS weights in COLUMNS columns."""
    blocks = tl.cdiv(channels, DEPTH)
    for step in range(0, TAPS * blocks):
        group, tap = split(step, blocks)
        c = group * DEPTH + tl.arange(0, DEPTH)
        row, has_row = seen(i + tap // COLUMNS - padding, height, MODE)
        column, has_column = seen(j + tap % COLUMNS - padding, width, MODE)
        pixel = image * x_b + row.to(tl.int64) * x_h + column.to(tl.int64) * x_w
        mask = (inside & has_row & has_column)[:, None] & (c < channels)[None, :]
        value = tl.load(x + (pixel[:, None] + c.to(tl.int64)[None, :] * x_c), mask, 0.0)
        if ACTIVATION is not None:
            value = activate(value.to(tl.float32), slope, ACTIVATION).to(value.dtype)
        line = (tl.cast(tap, tl.int64) * channels + c) * out_channels
        mask = (c < channels)[:, None] & (o < out_channels)[None, :]
        total = tl.dot(value, tl.load(weight + line[:, None] + o[None, :], mask, 0.0), total, input_precision=PRECISION)
    return total


@triton.jit
def convolve(
    x, x_b, x_c, x_h, x_w, weight, bias, y, y_b, y_c, y_h, y_w, channels, out_channels, height, width,
    out_height, out_width, padding, slope, COLUMNS: tl.constexpr, TAPS: tl.constexpr, MODE: tl.constexpr,
    ACTIVATION: tl.constexpr, PRECISION: tl.constexpr, PIXELS: tl.constexpr, OUT: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Of y (B,out_channels,out_height,out_width)."""
    block, image = split(tl.program_id(0).to(tl.int64), tl.cdiv(tl.cast(out_height, tl.int64) * out_width, PIXELS))
    i, j, inside = block_pixels(block, out_height, out_width, PIXELS)
    o = tl.program_id(1) * OUT + tl.arange(0, OUT)
    total = add_product(
        tl.zeros((PIXELS, OUT), tl.float32), x, x_b, x_c, x_h, x_w, weight, channels, out_channels,
        image, i, j, inside, o, height, width, padding, slope, COLUMNS, TAPS, MODE, ACTIVATION, PRECISION, DEPTH,
    )  # fmt: skip
    if bias is not None:
        total += tl.load(bias + o, o < out_channels, 0.0).to(tl.float32)[None, :]
    pixel = image * y_b + i.to(tl.int64) * y_h + j.to(tl.int64) * y_w
    target = y + (pixel[:, None] + o.to(tl.int64)[None, :] * y_c)
    tl.store(target, total, inside[:, None] & (o < out_channels)[None, :])


@triton.jit
def input_gradient(
    grad, grad_b, grad_c, grad_h, grad_w, weight, x, x_b, x_c, x_h, x_w, out, out_b, out_c, out_h, out_w,
    channels, out_channels, height, width, out_height, out_width, padding, slope, folds, band,
    COLUMNS: tl.constexpr, TAPS: tl.constexpr, MODE: tl.constexpr, BORDER: tl.constexpr, ACTIVATION: tl.constexpr,
    PRECISION: tl.constexpr, PIXELS: tl.constexpr, OUT: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """The gradient of x, from where each pixel stands first in the padded map; BORDER: from all ``folds`` places.

    Programs with BORDER own the pixels of the band that has more than one. A weight that is no number reaches the
    pixels of the band that do not see it, too: what they do not see is 0 in the product.
    """
    number = tl.cast(height, tl.int64) * width
    if BORDER:
        number -= tl.cast(tl.maximum(height - 2 * band, 0), tl.int64) * tl.maximum(width - 2 * band, 0)
    block, image = split(tl.program_id(0).to(tl.int64), tl.cdiv(number, PIXELS))
    if BORDER:
        i, j, inside = border_pixels(block, band, height, width, PIXELS)
    else:
        i, j, inside = block_pixels(block, height, width, PIXELS)
    c = tl.program_id(1) * OUT + tl.arange(0, OUT)
    blocks = tl.cdiv(out_channels, DEPTH)
    total = tl.zeros((PIXELS, OUT), tl.float32)
    for step in range(0, TAPS * blocks):
        group, tap = split(step, blocks)
        o = group * DEPTH + tl.arange(0, DEPTH)
        line = grad + image * grad_b + o.to(tl.int64)[None, :] * grad_c
        at = (tl.cast(tap, tl.int64) * channels + c[None, :]) * out_channels + o[:, None]
        factor = tl.load(weight + at, (o < out_channels)[:, None] & (c < channels)[None, :], 0.0)
        if BORDER:
            value = tl.zeros((PIXELS, DEPTH), tl.float32)
            for fold in range(0, folds * folds):
                row, has_row = place(i, fold // folds, height, padding, MODE)
                column, has_column = place(j, fold % folds, width, padding, MODE)
                row, column = row - tap // COLUMNS, column - tap % COLUMNS
                there = inside & has_row & has_column
                there &= (row >= 0) & (row < out_height) & (column >= 0) & (column < out_width)
                pixel = row.to(tl.int64) * grad_h + column.to(tl.int64) * grad_w
                mask = there[:, None] & (o < out_channels)[None, :]
                value += tl.load(line + pixel[:, None], mask, 0.0).to(tl.float32)
            value = value.to(factor.dtype)
        else:
            row, column = i + padding - tap // COLUMNS, j + padding - tap % COLUMNS
            there = inside & (row >= 0) & (row < out_height) & (column >= 0) & (column < out_width)
            pixel = row.to(tl.int64) * grad_h + column.to(tl.int64) * grad_w
            value = tl.load(line + pixel[:, None], there[:, None] & (o < out_channels)[None, :], 0.0)
        total = tl.dot(value, factor, total, input_precision=PRECISION)
    mask = inside[:, None] & (c < channels)[None, :]
    if ACTIVATION is not None:
        pixel = image * x_b + i.to(tl.int64) * x_h + j.to(tl.int64) * x_w
        value = tl.load(x + (pixel[:, None] + c.to(tl.int64)[None, :] * x_c), mask, 0.0).to(tl.float32)
        total *= derivative(activate(value, slope, ACTIVATION), slope, ACTIVATION)
    pixel = image * out_b + i.to(tl.int64) * out_h + j.to(tl.int64) * out_w
    tl.store(out + (pixel[:, None] + c.to(tl.int64)[None, :] * out_c), total, mask)


@triton.jit
def weight_gradient(
    grad, grad_b, grad_c, grad_h, grad_w, x, x_b, x_c, x_h, x_w, sums, channels, out_channels, batch, height, width,
    out_height, out_width, padding, slope, span, COLUMNS: tl.constexpr, TAPS: tl.constexpr, MODE: tl.constexpr,
    ACTIVATION: tl.constexpr, PRECISION: tl.constexpr, ROWS: tl.constexpr, OUT: tl.constexpr, PIXELS: tl.constexpr,
):  # fmt: skip
    """Sums (segments,TAPS,channels,out_channels) over output pixels of activated x · grad.

    A segment is a run of ``span`` blocks of the output pixels of all images.
    """
    tap = tl.program_id(1)
    out_block, row_block = split(tl.program_id(0), tl.cdiv(out_channels, OUT))
    c = row_block * ROWS + tl.arange(0, ROWS)
    o = out_block * OUT + tl.arange(0, OUT)
    blocks = tl.cdiv(tl.cast(out_height, tl.int64) * out_width, PIXELS)
    first = tl.program_id(2).to(tl.int64) * span
    total = tl.zeros((ROWS, OUT), tl.float32)
    for item in range(first, tl.minimum(first + span, blocks * batch)):
        block, image = split(item, blocks)
        i, j, inside = block_pixels(block, out_height, out_width, PIXELS)
        row, has_row = seen(i + tap // COLUMNS - padding, height, MODE)
        column, has_column = seen(j + tap % COLUMNS - padding, width, MODE)
        pixel = image * x_b + row.to(tl.int64) * x_h + column.to(tl.int64) * x_w
        mask = (inside & has_row & has_column)[:, None] & (c < channels)[None, :]
        left = tl.load(x + (pixel[:, None] + c.to(tl.int64)[None, :] * x_c), mask, 0.0)
        if ACTIVATION is not None:
            left = activate(left.to(tl.float32), slope, ACTIVATION).to(left.dtype)
        pixel = image * grad_b + i.to(tl.int64) * grad_h + j.to(tl.int64) * grad_w
        at = pixel[:, None] + o.to(tl.int64)[None, :] * grad_c
        right = tl.load(grad + at, inside[:, None] & (o < out_channels)[None, :], 0.0)
        total = tl.dot(tl.trans(left), right, total, input_precision=PRECISION)
    at = ((tl.program_id(2).to(tl.int64) * TAPS + tap) * channels + c[:, None]) * out_channels + o[None, :]
    tl.store(sums + at, total, (c < channels)[:, None] & (o < out_channels)[None, :])
