"""`pyeqgan doctor`."""

from __future__ import annotations

from dataclasses import dataclass

from pyeqgan.commands.command import Command

HELP = """Run every operation on every backend and compare it with its oracle.

examples:
  pyeqgan doctor

notes:
  The status is 0 if all agree."""


@dataclass(frozen=True)
class DoctorOptions:
    """Run every operation on every backend and compare it with its oracle; the exit status says whether all agree."""


def run(options: DoctorOptions) -> int:
    """Compare and print; returns the exit status."""
    from pyeqgan import doctor

    return doctor.main()


COMMAND = Command(DoctorOptions, HELP, run)
