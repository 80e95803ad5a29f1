"""`pyeqgan bench`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import FlagCreatePairsOff

from pyeqgan.commands.command import Command
from pyeqgan.options.fields import TOLD

HELP = """Measure the operations beside eager PyTorch and torch.compile.

examples:
  pyeqgan bench
  pyeqgan bench --op bilateral_propagation --threads 1 --no-compiled"""


@dataclass(frozen=True)
class BenchOptions:
    """Measure the operations beside eager PyTorch and torch.compile."""

    op: Annotated[tuple[str, ...], TOLD] = ()
    """Operations to measure. Default: all."""
    threads: tuple[int, ...] = (1, 2)
    """Numbers of threads to measure with."""
    rounds: int = 30
    """Interleaved rounds per case."""
    compiled: bool = True
    """Measure torch.compile, too; it takes most of the time."""
    json: FlagCreatePairsOff[bool] = False
    """Print JSON."""
    output: Annotated[Path | None, TOLD] = None
    """File for the raw numbers, JSON. Default: none."""


def run(options: BenchOptions) -> int:
    """Measure and print; returns the exit status."""
    from pyeqgan.benchmarks import harness

    status: int = harness.main(
        options.op,
        threads=options.threads,
        rounds=options.rounds,
        compiled=options.compiled,
        as_json=options.json,
        output=options.output,
    )
    return status


COMMAND = Command(BenchOptions, HELP, run)
