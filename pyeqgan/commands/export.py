"""`pyeqgan export`."""

from __future__ import annotations

from pyeqgan.commands.command import Command
from pyeqgan.options import ExportOptions

HELP = """Write a trained generator to a folder that can be given away, with a model card.

examples:
  pyeqgan export --checkpoint runs/photos --output photos-generator
  pyeqgan export --checkpoint runs/photos --output photos-onnx --format onnx
  pyeqgan export --checkpoint runs/photos --output photos-hub --license apache-2.0
  pyeqgan export --checkpoint runs/scenes --output scenes-generator

notes:
  hub is the layout of the Hugging Face Hub: from_pretrained of EqGANGenerator or
  ECGANGenerator reads it, from the folder or, once published by push_to_hub or
  `hf upload`, by its name.
  onnx and torch hold plain operations; what the generator draws by chance is an
  input of theirs, which the card describes. onnx needs pyeqgan[export].
  The card tells the run's options and classes, but not where its data lay.
  Nothing is sent anywhere."""


def run(options: ExportOptions) -> int:
    """Write the folder; returns 0."""
    from pyeqgan.export.checkpoint import export

    export(options, print)
    return 0


COMMAND = Command(ExportOptions, HELP, run)
