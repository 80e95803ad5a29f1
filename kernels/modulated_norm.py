"""``modulated_norm`` in Triton, forward and backward, in as few passes over memory as its statistics allow.

Counted in images that pass the memory bus, where gamma and beta are maps:

- An instance norm of a map that fits a program's registers, a norm by given statistics, or none: forward 4 (x, gamma,
  beta; y), backward 7 (the incoming gradient, x, gamma, beta; three gradients), each once, in one launch.
- Otherwise: forward 5, for the moments of x are found first. Backward 10: a pass for the gradients of gamma and beta
  and two sums of each channel (4 read, 2 written), and one for that of x, which reads the gradient of beta in place of
  the incoming one and of beta (3 read, 1 written).

Gamma and beta (B,C) weigh nothing: forward 2 or 3, backward 3 or 5. What programs have summed is added in a small
second reduction, without atomics. Any strides; maps whose rows do not join are copied. float32, bfloat16 and float16,
all sums in float32.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from pyeqgan.kernels import _modulation as kernels
from pyeqgan.kernels._config import tiled
from pyeqgan.kernels._norm import statistics
from pyeqgan.kernels._products import DTYPES
from pyeqgan.ops._library import empty_image, memory_format_of
from pyeqgan.ops._norm import empty_statistics

PROGRAMS = 2048  # wanted in a launch, which cuts the images into parts for it
WHOLE = 4096  # numbers that a program keeps in registers, at most
WALKS = ("planes", "channels_last", "whole")
MOMENTS, MODULATE, BACKWARD = (
    {walk: tiled(f"modulation_{walk}", ("channels", "pixels"))(kernel) for walk in WALKS}
    for kernel in (kernels.moments, kernels.modulate, kernels.modulate_backward)
)


class _Walk(NamedTuple):
    """How programs share images (B,C,pixels): each takes ``extent`` pixels of some channels of one."""

    name: str  # of WALKS
    batch: int
    channels: int
    pixels: int
    extent: int
    tile: dict[str, int]  # of "whole"; the others' are in tiles.json

    @classmethod
    def over(cls, x: Tensor, whole: bool) -> _Walk:
        """By the size and memory format of x; ``whole``: all pixels in one tile, if it fits."""
        batch, channels, pixels = len(x), x.shape[1], x.shape[2] * x.shape[3]
        name = "channels_last" if memory_format_of(x) == torch.channels_last else "planes"
        width = max(triton.next_power_of_2(pixels), 16)
        # Channels that lie together are read together: 16 of two bytes fill a sector of memory.
        tile = {"CHANNELS": max(1024 // width, 16 if name == "channels_last" else 1), "PIXELS": width}
        # Numbers that are not read in vectors need registers for their addresses, too.
        if whole and tile["CHANNELS"] * width <= (WHOLE if pixels % 16 == 0 else WHOLE // 2):
            return cls("whole", batch, channels, pixels, width, tile)
        step, group = (max(c.kwargs[k] for c in MOMENTS[name].configs) for k in ("PIXELS", "CHANNELS"))
        parts = max(PROGRAMS // (batch * triton.cdiv(channels, group)), 1)
        return cls(name, batch, channels, pixels, step * triton.cdiv(pixels, step * parts), {})

    @property
    def whole(self) -> bool:
        """Whether a program sees all pixels of its channels at once."""
        return self.name == "whole"

    @property
    def parts(self) -> int:
        """In which an image is cut."""
        return -(self.pixels // -self.extent)

    def launch(self, kernel: dict[str, Any], *arguments: Any, **constants: Any) -> None:
        """Run a kernel of MOMENTS and the like."""

        def grid(meta: dict[str, int]) -> tuple[int]:
            return (self.batch * triton.cdiv(self.channels, meta["CHANNELS"]) * self.parts,)

        size = (self.channels, self.pixels, self.extent)
        kernel[self.name][grid](*arguments, *size, **self.tile, **constants)


def _joined(values: Tensor) -> Tensor:
    """An image as (B,C,pixels); vectors (B,C) as they are."""
    return values if values.dim() == 2 else values.flatten(2)


def _strided(*values: Tensor | None) -> list[Any]:
    """Each with its strides, that of the pixels None for vectors; zeros where there is none."""
    return [a for v in values for a in ((None, 0, 0, 0) if v is None else (v, *v.stride(), None)[:4])]


def _check(op: str, x: Tensor) -> None:
    if x.dtype not in DTYPES:
        raise TypeError(f"{op} (Triton): x: expected float32, bfloat16 or float16, got {x.dtype}")


def forward(
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    norm: str | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    eps: float,
    activation: str | None,
    negative_slope: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The operation ``pyeqgan::modulated_norm``: y like x; mean and var float32.

    Raises:
        TypeError: x is of another dtype than float32, bfloat16, float16.
    """
    _check("modulated_norm", x)
    y = empty_image(x, x.shape[1])
    mean, var = (empty_statistics(x, norm, x.shape[1]).zero_() for _ in range(2))
    if norm == "batch" and not training:
        mean, var = statistics(norm, running_mean, running_var, None)
    if x.numel() == 0:
        return y, mean, var
    walk = _Walk.over(x, whole=norm == "instance")
    with torch.cuda.device_of(x):
        image, *maps = map(_joined, (x, gamma, beta))
        if not walk.whole and (norm == "instance" or (norm == "batch" and training)):
            parts = mean.new_empty((walk.batch, walk.parts, 3, walk.channels))
            walk.launch(MOMENTS, *_strided(image), parts)
            mean, var = statistics(norm, None, None, parts)
        given = (None, None) if norm is None else (mean, var)
        walk.launch(
            MODULATE, *_strided(image, *maps), *given, int(norm == "instance"), *_strided(_joined(y)),
            eps, negative_slope, ACTIVATION=activation, WHOLE=walk.whole,
        )  # fmt: skip
    return y, mean, var


def backward(
    grad_y: Tensor,
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    norm: str | None,
    mean: Tensor,
    var: Tensor,
    training: bool,
    eps: float,
    activation: str | None,
    negative_slope: float,
    need_x: bool,
    need_gamma: bool,
    need_beta: bool,
) -> tuple[Tensor, ...]:
    """The operation ``pyeqgan::modulated_norm_backward``; (0,) for a gradient that is not needed.

    Raises:
        TypeError: x is of another dtype than float32, bfloat16, float16.
    """
    _check("modulated_norm_backward", x)
    maps = gamma.dim() == 4
    stored = (need_x, need_gamma and maps, need_beta and maps)
    of_x, of_gamma, of_beta = (empty_image(x, x.shape[1]) if store else None for store in stored)
    totals = x.new_zeros((*x.shape[:2], 2), dtype=torch.float32).mT
    if x.numel():
        walk = _Walk.over(x, whole=norm == "instance")
        given = (None, None) if norm is None else (mean.contiguous(), var.contiguous())
        share = 1 / (walk.pixels * (walk.batch if norm == "batch" else 1))
        twice = need_x and not walk.whole and (norm == "instance" or (norm == "batch" and training))
        sums = totals.new_empty((walk.batch, walk.parts, 2, walk.channels)) if twice or not maps else None
        images = [_joined(t) for t in (grad_y, x, gamma, beta)]

        def run(means: Tensor | None, sums: Tensor | None, *outputs: Tensor | None) -> None:
            walk.launch(
                BACKWARD, *_strided(*images), *given, int(norm == "instance"), means, share,
                *_strided(*(None if o is None else _joined(o) for o in outputs)), sums, eps, negative_slope,
                ACTIVATION=activation, WHOLE=walk.whole,
            )  # fmt: skip

        with torch.cuda.device_of(x):
            run(None, sums, None if twice else of_x, of_gamma, of_beta)
            if sums is not None:
                totals = sums.sum(1)
            if twice:
                means = totals if maps else totals * (1 + gamma.float())[:, None]
                if of_beta is not None:  # the gradient of what was activated
                    images[0], activation = _joined(of_beta), None
                run(means.sum(0) if norm == "batch" else means, None, of_x, None, None)
    if not maps:
        of_gamma = totals[:, 1].to(x.dtype) if need_gamma else None
        of_beta = totals[:, 0].to(x.dtype) if need_beta else None
    return tuple(x.new_empty(0) if grad is None else grad for grad in (of_x, of_gamma, of_beta))
