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

notes:
  A generator of --model eqgan makes images of the class that --images show, one
  of --model ecgan paints the label maps of --layouts."""


def run(options: GenerateOptions) -> int:
    """Write the images; returns 0."""
    from pyeqgan.trained import generate

    generate(options, print)
    return 0


COMMAND = Command(GenerateOptions, HELP, run)
