"""The generator as an ONNX model."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import torch
from torch import nn

from pyeqgan.errors import UserError
from pyeqgan.export.program import as_function, traced


def export_onnx(generator: nn.Module, file: Path, *, shots: int | None = None) -> None:
    """Write a generator as ONNX; its inputs and outputs are those of :func:`export_program`.

    Args:
        generator: of an EqGAN or an ECGAN, in float32, on any device; it is not changed.
        file: to write; one that is there is replaced.
        shots: an EqGAN's K, if it is to be fixed; otherwise any K >= 3 will do.

    Raises:
        UserError: onnx or onnxscript is missing.
        TypeError: not a generator, or not in float32, which the runtime's convolutions are limited to.
        ValueError: ``shots`` is below 1, or given for an ECGAN.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f"ONNX needs {error.name}: pip install 'pyeqgan[export]'") from error
    if any(parameter.dtype != torch.float32 for parameter in generator.parameters()):
        raise TypeError("export_onnx: generator: expected parameters in torch.float32 alone")
    function = as_function(generator, shots)
    program = traced(function)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch about itself, and that two inputs share a size, as they must
        for noisy in ("onnxscript", "onnx_ir"):
            logging.getLogger(noisy).setLevel(logging.ERROR)
        exported = torch.onnx.export(
            program,
            input_names=function.inputs,
            output_names=function.outputs,
            dynamic_shapes=function.sizes,
            verbose=False,
        )
    assert exported is not None
    file.write_bytes(exported.model_proto.SerializeToString())
