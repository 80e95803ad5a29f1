"""`pyeqgan data inspect`."""

from __future__ import annotations

from pyeqgan.commands.command import Command
from pyeqgan.options.data_inspect import DataInspectOptions

HELP = """Tell what a data set holds, and what is wrong with it.

examples:
  pyeqgan data inspect photos
  pyeqgan data inspect photos.zip
  pyeqgan data inspect photos-128 --output photos-inspected --shots 3

notes:
  Every image is read as training reads it. Near duplicates are found by a
  perceptual hash of 143 bits: up to 10 that differ are another encoding, size or
  brightness of one picture. Crops are not found.
  Of a folder that data build made, the checksums are looked at, too.
  The status is 1 if something is wrong: images that cannot be read, an unseen
  image that is a seen one, a class with fewer images than --shots, a checksum."""


def run(options: DataInspectOptions) -> int:
    """Inspect; returns 1 if something is wrong, else 0."""
    from rich.console import Console

    from pyeqgan.data.inspection import inspect
    from pyeqgan.training.progress import stages

    with stages(Console()) as progress:
        return 1 if inspect(options, print, progress).wrong else 0


COMMAND = Command(DataInspectOptions, HELP, run)
