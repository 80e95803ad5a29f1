"""A generator as one graph of torch's own operations (`torch.export`), every random choice an input of it."""

from __future__ import annotations

import warnings

import torch
from torch import nn
from torch.export import ExportedProgram

from pyeqgan import backends
from pyeqgan.export import ecgan, eqgan
from pyeqgan.export.function import TensorFunction
from pyeqgan.models import ECGANGenerator, EqGANGenerator


def export_program(generator: nn.Module, *, shots: int | None = None) -> ExportedProgram:
    """A generator, in eval mode on the CPU, as a program that needs nothing of pyeqgan.

    Its inputs are those of :func:`input_names`, its outputs those of :func:`output_names`: of an EqGAN the images and
    the fields of a :class:`~pyeqgan.models.FusionPlan` to the images (B,3,S,S), of an ECGAN labels and perhaps instance
    edges to images and edges (B,3,H,W). B is free. Nothing in it is random, and values out of range are not looked for.

    Args:
        generator: an :class:`~pyeqgan.models.EqGANGenerator` or an :class:`~pyeqgan.models.ECGANGenerator` of any dtype
            and device; it is not changed.
        shots: an EqGAN's K, if it is to be fixed; otherwise any K >= 3 will do.

    Raises:
        TypeError: not a generator.
        ValueError: ``shots`` is below 1, or given for an ECGAN.
    """
    return traced(as_function(generator, shots))


def traced(function: TensorFunction) -> ExportedProgram:
    """The program of a function."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore", FutureWarning)  # torch's, of itself
        program = torch.export.export(function.module, function.arguments, dynamic_shapes=function.sizes)
        decomposed: ExportedProgram = program.run_decompositions(backends.decompositions())
    return decomposed


def as_function(generator: nn.Module, shots: int | None = None) -> TensorFunction:
    """The generator as a function of tensors alone; raises as :func:`export_program`."""
    if isinstance(generator, ECGANGenerator):
        if shots is not None:
            raise ValueError(f"export: shots: expected None for an ECGANGenerator, got {shots}")
        return ecgan.as_function(generator)
    if not isinstance(generator, EqGANGenerator):
        expected = "an EqGANGenerator or an ECGANGenerator"
        raise TypeError(f"export: generator: expected {expected}, got {type(generator).__name__}")
    if shots is not None and shots < 1:
        raise ValueError(f"export: shots: expected an integer >= 1 or None, got {shots}")
    return eqgan.as_function(generator, shots)


def input_names(generator: nn.Module) -> list[str]:
    """The inputs of an exported program, in their order."""
    return as_function(generator).inputs


def output_names(generator: nn.Module) -> list[str]:
    """What an exported program returns: "image", and of an ECGAN with an edge branch "edges" after it."""
    return as_function(generator).outputs
