"""``equalization_consistency_loss`` in Triton: the maths of ops.md section 6, one launch a scale in each direction.

A program owns a block of pixels and goes through all their channels, backward twice: first for the norms, then for the
gradients. Any strides; float32, bfloat16 and float16, all sums in float32; no atomics. Nothing is saved.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
# The functions under @triton.jit are written in Triton's language; they have no Python types.

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from pyeqgan.kernels._config import tiled
from pyeqgan.kernels._image import block_pixels, offsets, split
from pyeqgan.kernels._launch import blocks, over_pixels, strided
from pyeqgan.kernels._products import DTYPES
from pyeqgan.ops._library import empty_image

SIZE = ("channels", "height", "width")


@triton.jit
def clamped(norm):
    """As torch.nn.functional.cosine_similarity does it; NaN stays NaN, which a maximum would lose on a GPU."""
    return tl.where(norm < 1e-8, 1e-8, norm)


@triton.jit
def both(e, e_b, e_c, e_h, e_w, d, d_b, d_c, d_h, d_w, image, c, y, x, mask):
    """Some channels of some pixels of both sides, float32."""
    left = tl.load(e + offsets(image, c, y, x, e_b, e_c, e_h, e_w), mask, 0.0).to(tl.float32)
    right = tl.load(d + offsets(image, c, y, x, d_b, d_c, d_h, d_w), mask, 0.0).to(tl.float32)
    return left, right


@triton.jit
def products(
    e, e_b, e_c, e_h, e_w, d, d_b, d_c, d_h, d_w, image, y, x, inside, channels,
    CHANNELS: tl.constexpr, PIXELS: tl.constexpr,
):  # fmt: skip
    """⟨e,d⟩, ‖e‖ and ‖d‖ of some pixels."""
    dot = tl.zeros((CHANNELS, PIXELS), tl.float32)
    left_square = tl.zeros((CHANNELS, PIXELS), tl.float32)
    right_square = tl.zeros((CHANNELS, PIXELS), tl.float32)
    for first in range(0, channels, CHANNELS):
        c = first + tl.arange(0, CHANNELS)
        mask = (c < channels)[:, None] & inside[None, :]
        left, right = both(e, e_b, e_c, e_h, e_w, d, d_b, d_c, d_h, d_w, image, c, y, x, mask)
        dot += left * right
        left_square += left * left
        right_square += right * right
    return tl.sum(dot, 0), tl.sqrt_rn(tl.sum(left_square, 0)), tl.sqrt_rn(tl.sum(right_square, 0))


@tiled("consistency", SIZE)
@triton.jit
def sum_distances(
    e, e_b, e_c, e_h, e_w, d, d_b, d_c, d_h, d_w, sums, channels, height, width, share,
    DISTANCE: tl.constexpr, CHANNELS: tl.constexpr, PIXELS: tl.constexpr,
):  # fmt: skip
    """Of each program's pixels, times share."""
    block, image = split(tl.program_id(0).to(tl.int64), tl.cdiv(tl.cast(height, tl.int64) * width, PIXELS))
    y, x, inside = block_pixels(block, height, width, PIXELS)
    if DISTANCE == "cosine":
        dot, left_norm, right_norm = products(
            e, e_b, e_c, e_h, e_w, d, d_b, d_c, d_h, d_w, image, y, x, inside, channels, CHANNELS, PIXELS
        )
        value = tl.where(inside, 1.0 - dot / clamped(left_norm) / clamped(right_norm), 0.0)
    else:
        total = tl.zeros((CHANNELS, PIXELS), tl.float32)
        for first in range(0, channels, CHANNELS):
            c = first + tl.arange(0, CHANNELS)
            mask = (c < channels)[:, None] & inside[None, :]
            left, right = both(e, e_b, e_c, e_h, e_w, d, d_b, d_c, d_h, d_w, image, c, y, x, mask)
            total += tl.abs(left - right) if DISTANCE == "l1" else (left - right) * (left - right)
        value = tl.sum(total, 0)
    tl.store(sums + tl.program_id(0), tl.sum(value, 0) * share)


@tiled("consistency", SIZE)
@triton.jit
def distance_gradients(
    grad_loss, e, e_b, e_c, e_h, e_w, d, d_b, d_c, d_h, d_w, of_e, of_e_b, of_e_c, of_e_h, of_e_w,
    of_d, of_d_b, of_d_c, of_d_h, of_d_w, channels, height, width, share,
    DISTANCE: tl.constexpr, CHANNELS: tl.constexpr, PIXELS: tl.constexpr,
):  # fmt: skip
    """Of e and d (unless None). As in torch a clamped norm passes its gradient on, and a norm of 0 has none."""
    block, image = split(tl.program_id(0).to(tl.int64), tl.cdiv(tl.cast(height, tl.int64) * width, PIXELS))
    y, x, inside = block_pixels(block, height, width, PIXELS)
    grad = tl.load(grad_loss) * share
    if DISTANCE == "cosine":
        dot, left_norm, right_norm = products(
            e, e_b, e_c, e_h, e_w, d, d_b, d_c, d_h, d_w, image, y, x, inside, channels, CHANNELS, PIXELS
        )
        left_length, right_length = clamped(left_norm), clamped(right_norm)
        cosine = dot / left_length / right_length
        across = (-grad / left_length / right_length)[None, :]
        left_along = (grad * cosine / left_length / tl.where(left_norm == 0.0, 1.0, left_norm))[None, :]
        right_along = (grad * cosine / right_length / tl.where(right_norm == 0.0, 1.0, right_norm))[None, :]
    for first in range(0, channels, CHANNELS):
        c = first + tl.arange(0, CHANNELS)
        mask = (c < channels)[:, None] & inside[None, :]
        left, right = both(e, e_b, e_c, e_h, e_w, d, d_b, d_c, d_h, d_w, image, c, y, x, mask)
        if DISTANCE == "cosine":
            left_grad = across * right + left_along * left
            right_grad = across * left + right_along * right
        else:
            left_grad = left - right
            if DISTANCE == "l1":  # its sign; of NaN it is NaN
                left_grad = tl.where(left_grad > 0.0, 1.0, tl.where(left_grad < 0.0, -1.0, left_grad)) * grad
            else:
                left_grad = 2.0 * left_grad * grad
            right_grad = -left_grad
        if of_e is not None:
            tl.store(of_e + offsets(image, c, y, x, of_e_b, of_e_c, of_e_h, of_e_w), left_grad, mask)
        if of_d is not None:
            tl.store(of_d + offsets(image, c, y, x, of_d_b, of_d_c, of_d_h, of_d_w), right_grad, mask)


def _share(e: Tensor, weight: float, distance: str) -> float:
    """What a scale's sum of distances is multiplied by: a mean over pixels, or over all numbers."""
    return weight * (e.shape[1] if distance == "cosine" else 1) / e.numel()


def _check(op: str, features: list[Tensor]) -> None:
    for i, f in enumerate(features):
        if f.dtype not in DTYPES:
            raise TypeError(f"{op} (Triton): equalized[{i}]: expected float32, bfloat16 or float16, got {f.dtype}")


def forward(equalized: list[Tensor], decoded: list[Tensor], weights: list[float], distance: str) -> Tensor:
    """The operation ``pyeqgan::equalization_consistency_loss``: 0-d float32.

    Raises:
        TypeError: features are of another dtype than float32, bfloat16, float16.
    """
    _check("equalization_consistency_loss", equalized)
    parts = [equalized[0].new_zeros(1, dtype=torch.float32)]
    with torch.cuda.device_of(equalized[0]):
        for e, d, weight in zip(equalized, decoded, weights, strict=True):
            if e.numel() == 0:
                continue
            smallest = min(c.kwargs["PIXELS"] for c in sum_distances.configs)
            sums = e.new_empty(len(e) * blocks(e, smallest), dtype=torch.float32)
            sum_distances[over_pixels(e)](
                *strided(e), *strided(d), sums, *e.shape[1:], _share(e, weight, distance), DISTANCE=distance
            )
            parts.append(sums[: len(e) * blocks(e, sum_distances.best_config.kwargs["PIXELS"])])
    return torch.cat(parts).sum()


def backward(
    grad_loss: Tensor,
    equalized: list[Tensor],
    decoded: list[Tensor],
    weights: list[float],
    distance: str,
    need_equalized: list[bool],
    need_decoded: list[bool],
) -> list[Tensor]:
    """The operation ``pyeqgan::equalization_consistency_loss_backward``; (0,) for a gradient that is not needed.

    Raises:
        TypeError: features are of another dtype than float32, bfloat16, float16.
    """
    _check("equalization_consistency_loss_backward", equalized)
    sides = []
    for features, needs in ((equalized, need_equalized), (decoded, need_decoded)):
        given = zip(features, needs, strict=True)
        sides.append([empty_image(f, f.shape[1]) if need else grad_loss.new_empty(0) for f, need in given])
    with torch.cuda.device_of(grad_loss):
        for i, (e, d, weight) in enumerate(zip(equalized, decoded, weights, strict=True)):
            if e.numel() and (need_equalized[i] or need_decoded[i]):
                grads = [strided(side[i] if side[i].numel() else None) for side in sides]
                distance_gradients[over_pixels(e)](
                    grad_loss, *strided(e), *strided(d), *grads[0], *grads[1], *e.shape[1:],
                    _share(e, weight, distance), DISTANCE=distance,
                )  # fmt: skip
    return sides[0] + sides[1]
