"""What a generator is here, and the two trivial ones that every other has to beat."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

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
