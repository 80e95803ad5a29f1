"""The generator as one graph of torch's own operations (`torch.export`), every random choice an input of it."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from pyeqgan import backends
from pyeqgan.models import EqGANGenerator, FusionPlan

LEAST_DYNAMIC_SHOTS = 3


class PlannedGenerator(nn.Module):
    """A generator as a function of tensors alone: the images and the fields of a :class:`FusionPlan`."""

    def __init__(self, generator: EqGANGenerator) -> None:
        super().__init__()
        self.generator = generator
        self.sides = list(generator.sample_plan(1, 1).positions)

    def forward(self, images: Tensor, weights: Tensor, base: Tensor, *positions: Tensor) -> Tensor:
        """Images (B,3,S,S) from images (B,K,3,S,S), weights (B,K), base (B,) and, for each grid, positions (B,M)."""
        plan = FusionPlan(weights, base, dict(zip(self.sides, positions, strict=True)))
        generated: Tensor = self.generator(images, plan=plan).images
        return generated


def export_program(generator: EqGANGenerator, *, shots: int | None = None) -> ExportedProgram:
    """The generator, in eval mode on the CPU, as a program that needs nothing of pyeqgan.

    Its inputs are those of :func:`input_names`, see :class:`~pyeqgan.models.FusionPlan` for what they mean; its output
    is the images (B,3,S,S). B is free. Nothing in it is random, and values that no plan holds are not looked for.

    Args:
        generator: of any dtype and device; it is not changed.
        shots: K, if it is to be fixed; otherwise any K >= 3 will do.

    Raises:
        TypeError: not a generator.
        ValueError: ``shots`` is below 1.
    """
    if not isinstance(generator, EqGANGenerator):
        raise TypeError(f"export: generator: expected an EqGANGenerator, got {type(generator).__name__}")
    if shots is not None and shots < 1:
        raise ValueError(f"export: shots: expected an integer >= 1 or None, got {shots}")
    model = PlannedGenerator(copy.deepcopy(generator).cpu().eval().requires_grad_(False))
    side, dtype = generator.config.image_size, next(generator.parameters()).dtype
    # Sizes of 1 would be taken for fixed, and so would those that a K below 3 leaves.
    plan = generator.sample_plan(2, shots or LEAST_DYNAMIC_SHOTS, device=torch.device("cpu"))
    images = torch.zeros(2, plan.weights.shape[1], 3, side, side, dtype=dtype)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore", FutureWarning)  # torch's, of itself
        arguments = (images, plan.weights, plan.base, *plan.positions.values())
        program = torch.export.export(model, arguments, dynamic_shapes=free_sizes(generator, shots))
        decomposed: ExportedProgram = program.run_decompositions(backends.decompositions())
    return decomposed


def free_sizes(generator: EqGANGenerator, shots: int | None) -> tuple[Any, ...]:
    """The sizes of each input that are free, by their dimension, in the form of :func:`torch.export.export`."""
    batch = Dim("batch", min=1)
    rows = {0: batch} if shots else {0: batch, 1: Dim("shots", min=LEAST_DYNAMIC_SHOTS)}
    positions = tuple({0: batch} for _ in input_names(generator)[3:])
    return rows, rows, {0: batch}, *([positions] if positions else [])


def input_names(generator: EqGANGenerator) -> list[str]:
    """The inputs of an exported program in their order: "images", "weights", "base", and "positions_8" and so on."""
    return ["images", "weights", "base", *(f"positions_{side}" for side in generator.sample_plan(1, 1).positions)]
