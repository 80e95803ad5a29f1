"""Which models can be trained: the one place that knows them all."""

from __future__ import annotations

from pyeqgan.options import ECGANOptions, EqGANOptions, TrainOptions
from pyeqgan.training.ecgan.system import ECGANSystem
from pyeqgan.training.eqgan.system import EqGANSystem
from pyeqgan.training.system import System


def open_system(options: TrainOptions) -> System:
    """The system that options are of, with its data opened.

    Raises:
        UserError: the data cannot be read, or the networks not be built.
    """
    if isinstance(options, EqGANOptions):
        return EqGANSystem(options)
    if isinstance(options, ECGANOptions):
        return ECGANSystem(options)
    raise TypeError(f"expected options of a model, got {type(options).__name__}")
