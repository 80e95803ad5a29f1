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
    _check_generated(images, (count, 3, *references.shape[1:3]), class_name)
    return to_uint8(images)


def _check_generated(images: Tensor, shape: Sequence[int], class_name: str) -> None:
    if not images.is_floating_point():
        raise TypeError(f"generate: expected floating point in [-1, 1], got {images.dtype}")
    if images.shape != torch.Size(shape):
        raise ValueError(f"generate: expected shape {tuple(shape)}, got {tuple(images.shape)}")
    if images.isnan().any():
        raise UserError(f"the generator returns NaN for class {class_name!r}: its training went wrong")
    if images.abs().max() > 1.001:  # a mean of ones may round to a little more than 1
        raise ValueError(f"generate: expected values in [-1, 1], got {images.min():g} to {images.max():g}")
