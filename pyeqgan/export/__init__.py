"""The generator for those who do not have pyeqgan: as a program of torch's own operations, and as ONNX."""

from pyeqgan.export.onnx import export_onnx
from pyeqgan.export.program import export_program, input_names, output_names

__all__ = ["export_onnx", "export_program", "input_names", "output_names"]
