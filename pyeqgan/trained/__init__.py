"""What is done with a trained generator: images, and its evaluation. Which model it is of, its checkpoint tells."""

from __future__ import annotations

from pyeqgan.models import ECGANGenerator, EqGANGenerator
from pyeqgan.options import EvaluateOptions, GenerateOptions
from pyeqgan.telling import Progress, Report
from pyeqgan.trained import ecgan, eqgan
from pyeqgan.trained.checkpoint import model_of, refuse_others
from pyeqgan.training.checkpoint import Checkpoint, load_latest
from pyeqgan.training.device import resolve_device

_MODULES = {"eqgan": eqgan, "ecgan": ecgan}


def averaged_generator(checkpoint: Checkpoint) -> EqGANGenerator | ECGANGenerator:
    """The generator of a checkpoint's part "ema", on the CPU in eval mode."""
    generator: EqGANGenerator | ECGANGenerator = _MODULES[model_of(checkpoint)].averaged_generator(checkpoint)
    return generator


def generate(options: GenerateOptions, report: Report, progress: Progress | None = None) -> None:
    """Write images, and a grid of them, to a folder; see the `generate` of the checkpoint's model.

    Args:
        options: of the command.
        report: called with a line for each thing worth knowing.
        progress: told what is being done, where it takes long.

    Raises:
        UserError: the checkpoint or what is generated from cannot be read, an option is not of its model, or the
            output folder cannot be written, or holds pictures of an earlier call and `options.force` is not set.
    """
    device = resolve_device(options.device)
    checkpoint = load_latest(options.checkpoint, report, ["ema"])
    refuse_others(options, model_of(checkpoint))
    _MODULES[model_of(checkpoint)].generate(checkpoint, options, device, report, progress)


def evaluate(options: EvaluateOptions, report: Report, progress: Progress | None = None) -> None:
    """Evaluate a generator on data that it was not trained on; see the `evaluate` of the checkpoint's model.

    Args:
        options: of the command.
        report: called with a line for each thing worth knowing.
        progress: told what is being done.

    Raises:
        UserError: the checkpoint or the data cannot be read or do not fit, an option is not of its model, or the
            folder cannot be written.
    """
    device = resolve_device(options.device)
    checkpoint = load_latest(options.checkpoint, report, ["ema"])
    refuse_others(options, model_of(checkpoint))
    _MODULES[model_of(checkpoint)].evaluate(checkpoint, options, device, report, progress)
