"""`pyeqgan generate`."""

from __future__ import annotations

from pyeqgan.commands.command import Command
from pyeqgan.options import GenerateOptions

HELP = """Generate images with a trained generator: of a class, or of label maps.

examples:
  pyeqgan generate --checkpoint runs/photos --images a.jpg b.jpg --output new
  pyeqgan generate --checkpoint runs/photos/checkpoints/step_00002000 \\
      --images lily/*.jpg --count 64 --seed 7 --output lilies
  pyeqgan generate --checkpoint runs/scenes --layouts labels --output painted
  pyeqgan generate --checkpoint runs/scenes --layouts labels --output painted --resume

notes:
  A generator of --model eqgan makes images of the class that --images show, one
  of --model ecgan paints the label maps of --layouts. Each of their pictures is
  written whole and names what it was made from: after a call that was stopped,
  --resume makes the missing ones, of the same layouts and the same checkpoint."""


def run(options: GenerateOptions) -> int:
    """Write the images; returns 0."""
    from rich.console import Console

    from pyeqgan.trained import generate
    from pyeqgan.training.progress import stages

    with stages(Console()) as progress:
        generate(options, print, progress)
    return 0


COMMAND = Command(GenerateOptions, HELP, run)
