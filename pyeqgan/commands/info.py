"""`pyeqgan info`."""

from __future__ import annotations

from dataclasses import dataclass

from tyro.conf import FlagCreatePairsOff

from pyeqgan.commands.command import Command

HELP = """Tell versions, processor, build, and which implementation of each operation runs.

examples:
  pyeqgan info
  pyeqgan info --json"""


@dataclass(frozen=True)
class InfoOptions:
    """Tell versions, processor, build, and which implementation of each operation runs."""

    json: FlagCreatePairsOff[bool] = False
    """Print JSON."""


def run(options: InfoOptions) -> int:
    """Print it; returns 0."""
    from pyeqgan.info import main_info

    return main_info(as_json=options.json)


COMMAND = Command(InfoOptions, HELP, run)
