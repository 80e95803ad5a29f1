"""What a generator is here, and the two trivial ones that every other has to beat."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from pyeqgan.data import to_tensor, to_uint8
from pyeqgan.data.images import Pixels
from pyeqgan.errors import UserError

Generate = Callable[[Tensor, int, torch.Generator], Tensor]
"""(references (R,3,S,S) float32 in [-1,1] on the CPU, count, source of randomness) -> (count,3,S,S) in [-1,1]."""


def copy_reference(references: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """One of the references each time: perfectly real, never new."""
    return references[torch.randint(len(references), (count,), generator=generator)]


def pixel_mean(shots: int) -> Generate:
    """A generator of the mean of `shots` distinct references, drawn each time: always new, hardly real."""

    def generate(references: Tensor, count: int, generator: torch.Generator) -> Tensor:
        chosen = torch.rand(count, len(references), generator=generator).argsort(1)[:, :shots]
        return torch.stack([references[rows].mean(0) for rows in chosen])

    return generate


def draw_images(
    generate: Generate, references: Pixels, count: int, *, seed: int, key: Sequence[int], class_name: str
) -> Pixels:
    """Images uint8 (count,S,S,3) made of references uint8 (R,S,S,3), the same for the same seed and key.

    Raises:
        UserError: the generator returns NaN.
        TypeError, ValueError: it returns something other than `Generate` says.
    """
    state = np.random.SeedSequence(seed, spawn_key=tuple(key)).generate_state(1, np.uint64)
    source = torch.Generator().manual_seed(int(state[0] >> np.uint64(1)))
    images = generate(to_tensor(references), count, source)
    check_images("generate", images, (count, 3, *references.shape[1:3]), of=f"class {class_name!r}")
    return to_uint8(images)


def check_images(function: str, images: Tensor, shape: Sequence[int], *, of: str) -> None:
    """What `function` returned for `of` is floating point in [-1, 1] of that shape; else the error says what it is.

    Raises:
        UserError: there is NaN in it.
        TypeError, ValueError: it is something else.
    """
    if not images.is_floating_point():
        raise TypeError(f"{function}: expected floating point in [-1, 1], got {images.dtype}")
    if images.shape != torch.Size(shape):
        raise ValueError(f"{function}: expected shape {tuple(shape)}, got {tuple(images.shape)}")
    if images.isnan().any():
        raise UserError(f"the generator returns NaN for {of}: its training went wrong")
    if images.abs().max() > 1.001:  # a mean of ones may round to a little more than 1
        raise ValueError(f"{function}: expected values in [-1, 1], got {images.min():g} to {images.max():g}")
