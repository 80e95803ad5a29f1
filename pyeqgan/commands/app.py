"""`pyeqgan app`."""

from __future__ import annotations

from pyeqgan.commands.command import Command
from pyeqgan.options import AppOptions

HELP = """Open a local web page: drop images of a class, get new ones.

examples:
  pyeqgan app --checkpoint runs/photos
  pyeqgan app --checkpoint runs/photos --port 8000

notes:
  It needs Gradio: pip install 'pyeqgan[app]'. Ctrl-C ends it."""


def run(options: AppOptions) -> int:
    """Serve until interrupted; returns the exit status."""
    from pyeqgan.app import serve

    return serve(options, print)


COMMAND = Command(AppOptions, HELP, run)
