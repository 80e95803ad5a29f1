"""`pyeqgan evaluate`."""

from __future__ import annotations

from pyeqgan.commands.command import Command
from pyeqgan.options import EvaluateOptions

HELP = """Evaluate a trained generator on unseen classes, beside two trivial generators.

examples:
  pyeqgan evaluate --checkpoint runs/photos --output runs/photos/evaluation
  pyeqgan evaluate --checkpoint runs/photos --data others --output others-evaluated

notes:
  The trivial ones copy a reference and take the pixel mean of references. All
  are compared with real images in the features of a network trained on the seen
  classes of the same data."""


def run(options: EvaluateOptions) -> int:
    """Write numbers and pictures; returns 0."""
    from rich.console import Console

    from pyeqgan.trained import evaluate
    from pyeqgan.training.progress import stages

    with stages(Console()) as progress:
        evaluate(options, print, progress)
    return 0


COMMAND = Command(EvaluateOptions, HELP, run)
