"""``local_fusion`` in Triton: the maths of ops.md section 1. Its gradients are those of ``lifted_fusion``.

The similarities of a block of positions to a block of a reference's pixels are a product of matrices that lives in
registers: its largest are kept, and it is forgotten. The pixels' norms come from the same reads. The blend is that of
``lifted_fusion`` on the map's own grid. Both memory formats are read in place, references whose rows do not join are
copied; float32, bfloat16 and float16, all sums in float32; no atomics.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
# The functions under @triton.jit are written in Triton's language; they have no Python types.

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from pyeqgan.kernels import lifted_fusion
from pyeqgan.kernels._image import split
from pyeqgan.kernels._launch import strided
from pyeqgan.kernels._products import arithmetic, family

LOWEST = tl.constexpr(-(2**31))  # of an int32
HIGHEST = tl.constexpr(2**31 - 1)


@triton.jit
def ordered(value):
    """int32 numbers in the order of the float32 ones; both zeros are equal, and NaN is the largest, as in argmax."""
    bits = tl.where(value == 0.0, 0.0, value).to(tl.int32, bitcast=True)
    return tl.where(value != value, HIGHEST, bits ^ ((bits >> 31) & HIGHEST))


@triton.jit
def match(
    rows, references, of_image, of_reference, of_channel, of_pixel, matches, count, selected, channels, pixels,
    PRECISION: tl.constexpr,
    POSITIONS: tl.constexpr, CANDIDATES: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Matches (B,R,M) of rows (B,M,C) of base: the pixel of the largest cosine, the first of equals."""
    block, item = split(tl.program_id(0).to(tl.int64), tl.cdiv(selected, POSITIONS))
    reference, image = split(item, count)
    m = (block * POSITIONS).to(tl.int32) + tl.arange(0, POSITIONS)
    line = rows + (image * selected + m.to(tl.int64)) * channels
    source = references + image * of_image + reference * of_reference
    steps = tl.cdiv(channels, DEPTH)
    best = tl.full((POSITIONS,), LOWEST, tl.int32)
    index = tl.zeros((POSITIONS,), tl.int32)
    for first in range(0, pixels, CANDIDATES):
        q = first + tl.arange(0, CANDIDATES)
        pixel = source + q.to(tl.int64) * of_pixel
        dot = tl.zeros((POSITIONS, CANDIDATES), tl.float32)
        square = tl.zeros((CANDIDATES,), tl.float32)
        for step in range(0, steps):
            c = step * DEPTH + tl.arange(0, DEPTH)
            own = tl.load(line[:, None] + c[None, :], (m < selected)[:, None] & (c < channels)[None, :], 0.0)
            at = pixel[None, :] + c.to(tl.int64)[:, None] * of_channel
            other = tl.load(at, (c < channels)[:, None] & (q < pixels)[None, :], 0.0)
            dot = tl.dot(own, other, dot, input_precision=PRECISION)
            square += tl.sum(other.to(tl.float32) * other.to(tl.float32), 0)
        norm = tl.sqrt_rn(square)
        short = norm < 1e-12
        inverse = tl.where(short, 1e12, tl.div_rn(1.0, tl.where(short, 1.0, norm)))
        key = tl.where((q < pixels)[None, :], ordered(dot * inverse[None, :]), LOWEST)
        largest = tl.max(key, 1)
        place = tl.min(tl.where(key == largest[:, None], q[None, :], pixels), 1)
        index = tl.where(largest > best, place, index)  # of equals in two blocks the first was met before
        best = tl.maximum(largest, best)
    tl.store(matches + item * selected + m, index.to(tl.int64), m < selected)


# Tiles by what they compile to, never timed.
MATCH = family("fusion_match", ("count", "selected", "channels", "pixels"), match)


def forward(base: Tensor, references: Tensor, weights: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """The operation ``pyeqgan::local_fusion``: fused like base, matches (B,R,M) int64.

    Raises:
        TypeError: base is of another dtype than float32, bfloat16, float16.
        ValueError: a map of more pixels than an int32 counts.
    """
    products, precision = arithmetic("local_fusion", "base", base.dtype)
    batch, channels, height, width = base.shape
    count, selected = references.shape[1], positions.shape[1]
    lifted_fusion.check("local_fusion", base, (height, width))
    matches = positions.new_zeros((batch, count, selected))
    with torch.cuda.device_of(base):
        if matches.numel() and channels:
            image = torch.arange(batch, device=base.device)[:, None]
            rows = base[image, :, positions // width, positions % width].contiguous()
            MATCH[products][lambda meta: (batch * count * triton.cdiv(selected, meta["POSITIONS"]),)](
                rows, *strided(references.flatten(3)), matches, count, selected, channels, height * width,
                PRECISION=precision,
            )  # fmt: skip
    return lifted_fusion.forward(base, references, weights, positions, matches, (height, width)), matches
