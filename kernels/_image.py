"""How Triton kernels find their way in (B,C,H,W) tensors of any strides: int64 from the first multiplication."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
# The functions under @triton.jit are written in Triton's language; they have no Python types.

import triton
import triton.language as tl


@triton.jit
def split(index, size):
    """The last digit of a mixed-radix number, and the rest of it."""
    return index % size, index // size


@triton.jit
def block_pixels(block, height, width, PIXELS: tl.constexpr):
    """Row, column and validity of the pixels of a block of the flattened map."""
    first = block * PIXELS
    column = (first % width).to(tl.int32) + tl.arange(0, PIXELS)
    y = (first // width).to(tl.int32) + column // width
    x = column % width
    return y, x, y < height


@triton.jit
def offsets(image, channel, y, x, stride_b, stride_c, stride_h, stride_w):
    """int64 offsets (channels, pixels) into a tensor of any strides."""
    pixel = y.to(tl.int64) * stride_h + x.to(tl.int64) * stride_w
    return image * stride_b + channel.to(tl.int64)[:, None] * stride_c + pixel[None, :]


@triton.jit
def block_of_image(channels, height, width, CHANNELS: tl.constexpr, PIXELS: tl.constexpr):
    """Image, channels, rows, columns, (channels,pixels) mask and pixel block of this program."""
    block, rest = split(tl.program_id(0).to(tl.int64), tl.cdiv(tl.cast(height, tl.int64) * width, PIXELS))
    group, image = split(rest, tl.cdiv(channels, CHANNELS))
    y, x, inside = block_pixels(block, height, width, PIXELS)
    c = (group * CHANNELS).to(tl.int32) + tl.arange(0, CHANNELS)
    return image, c, y, x, (c < channels)[:, None] & inside[None, :], block
