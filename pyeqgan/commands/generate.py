"""`pyeqgan generate`."""

from __future__ import annotations

from pyeqgan.commands.command import Command
from pyeqgan.options import GenerateOptions

HELP = """Generate images of the class that some images show, with a trained generator.

examples:
  pyeqgan generate --checkpoint runs/photos --images a.jpg b.jpg --output new
  pyeqgan generate --checkpoint runs/photos/checkpoints/step_00002000 \\
      --images lily/*.jpg --count 64 --seed 7 --output lilies"""


def run(options: GenerateOptions) -> int:
    """Write the images; returns 0."""
    from pyeqgan.trained import generate

    generate(options, print)
    return 0


COMMAND = Command(GenerateOptions, HELP, run)
