"""`pyeqgan report`."""

from __future__ import annotations

from pyeqgan.commands.command import Command
from pyeqgan.options import ReportOptions

HELP = """Show a run on one HTML page: samples through time, metrics, nearest training images, losses, options.

examples:
  pyeqgan report runs/photos
  pyeqgan report runs/photos --evaluation runs/photos/other --output photos.html

notes:
  The page holds everything it shows and fetches nothing, so it can be sent to someone as it is."""


def run(options: ReportOptions) -> int:
    """Write the page; returns 0."""
    from rich.console import Console

    from pyeqgan.report import write_run_report
    from pyeqgan.training.progress import stages

    with stages(Console()) as progress:
        page = write_run_report(options, print, progress)
    print(f"the run on one page: {page}")
    return 0


COMMAND = Command(ReportOptions, HELP, run)
