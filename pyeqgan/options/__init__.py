"""What each command can be told: one dataclass per command, whose field docstrings are the command line's help.

Nothing here imports torch, so that `pyeqgan --help` answers at once.
"""

from pyeqgan.options.app import AppOptions
from pyeqgan.options.evaluate import EvaluateOptions
from pyeqgan.options.export import ExportOptions
from pyeqgan.options.fields import Device, flag
from pyeqgan.options.generate import GenerateOptions
from pyeqgan.options.report import ReportOptions
from pyeqgan.options.train import Precision, TrainOptions
from pyeqgan.options.train_ecgan import ECGANOptions
from pyeqgan.options.train_eqgan import EqGANOptions

__all__ = [
    "TRAINABLE",
    "AppOptions",
    "Device",
    "ECGANOptions",
    "EqGANOptions",
    "EvaluateOptions",
    "ExportOptions",
    "GenerateOptions",
    "Precision",
    "ReportOptions",
    "TrainOptions",
    "flag",
]

TRAINABLE: dict[str, type[TrainOptions]] = {"eqgan": EqGANOptions, "ecgan": ECGANOptions}
"""What `pyeqgan train` can be told, by --model."""
