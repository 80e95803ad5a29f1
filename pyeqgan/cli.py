"""The `pyeqgan` command: its subcommands, their help and how their errors are told.

Only the command that is asked for is imported, torch with it: help and mistakes are answered at once.
"""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from typing import Annotated, Any

import tyro
from tyro.conf import FlagCreatePairsOff

from pyeqgan.errors import UserError
from pyeqgan.options import GenerateOptions, TrainOptions


@dataclass(frozen=True)
class InfoOptions:
    """Tell versions, processor, build, and which implementation of each operation runs."""

    json: FlagCreatePairsOff[bool] = False
    """Print JSON."""


@dataclass(frozen=True)
class DoctorOptions:
    """Run every operation on every backend and compare it with its oracle; the exit status says whether all agree."""


DESCRIPTION = "EqGAN: few-shot image generation on fused kernels."

TRAIN = """Train an EqGAN on the seen classes of a data set.

examples:
  pyeqgan train --output runs/flowers --image-size 64 --width 0.25 --steps 2000
  pyeqgan train --output runs/photos --data photos --seen-classes 85
  pyeqgan train --output runs/photos --resume
  pyeqgan train --output runs/photos --resume --steps 200000

A run writes config.yaml, metrics.jsonl, losses.png, samples/ and checkpoints/
into its folder. SIGTERM or Ctrl-C end it with a checkpoint, and with status 128
plus the signal's number.

The learning rate is constant for half of --steps, then falls linearly to 0.
With --resume only --steps, the three intervals, --prefetch and --device may
differ from the run's. With more --steps the learning rate is that of the new
total from there on, so it may rise again. On the CPU, with as many threads, a
resumed run ends bit for bit as one that was never interrupted."""

GENERATE = """Generate images of the class that some images show, with a trained generator.

examples:
  pyeqgan generate --checkpoint runs/photos --images a.jpg b.jpg --output new
  pyeqgan generate --checkpoint runs/photos/checkpoints/step_00002000 \\
      --images lily/*.jpg --count 64 --seed 7 --output lilies"""

INFO = """Tell versions, processor, build, and which implementation of each operation runs.

examples:
  pyeqgan info
  pyeqgan info --json"""

DOCTOR = """Run every operation on every backend and compare it with its oracle.

examples:
  pyeqgan doctor

The status is 0 if all agree."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status.

    Args:
        arguments: of the command line, without the program's name; those of the process if None.
    """
    try:
        return run(parse(sys.argv[1:] if arguments is None else list(arguments)))
    except UserError as error:
        print(f"pyeqgan: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("pyeqgan: interrupted", file=sys.stderr)
        return 130


def parse(arguments: list[str]) -> Any:
    """The options of the command that `arguments` name.

    Raises:
        UserError: the arguments are no command.
        SystemExit: help was asked for, and printed.
    """
    options = _parse(arguments)
    if isinstance(options, TrainOptions) and options.resume:
        from pyeqgan.training.run_folder import read_config

        return _parse(arguments, read_config(options.output))
    return options


def run(options: Any) -> int:
    """Run the command that `options` belong to; returns its exit status."""
    if isinstance(options, TrainOptions):
        from rich.console import Console

        from pyeqgan.training.run import train

        return train(options, Console())
    if isinstance(options, GenerateOptions):
        from pyeqgan.generation import generate

        generate(options, print)
        return 0
    if isinstance(options, InfoOptions):
        from pyeqgan.info import main_info

        return main_info(as_json=options.json)
    from pyeqgan import doctor

    return doctor.main()


def _parse(arguments: list[str], run: TrainOptions | None = None) -> Any:
    """Parse by tyro; options of `train` that are not given are those of `run`, or else their defaults."""

    def command(name: str, description: str, default: Any = tyro.MISSING_NONPROP) -> Any:
        asked_for = arguments[:1] == [name]
        return tyro.conf.subcommand(
            name, default=default, description=description if asked_for else description.partition("\n")[0]
        )

    commands: Any = (
        Annotated[TrainOptions, command("train", TRAIN, tyro.MISSING_NONPROP if run is None else run)]
        | Annotated[GenerateOptions, command("generate", GENERATE)]
        | Annotated[InfoOptions, command("info", INFO)]
        | Annotated[DoctorOptions, command("doctor", DOCTOR)]
    )
    told = io.StringIO()
    try:
        with redirect_stderr(told):
            return tyro.cli(commands, prog="pyeqgan", description=DESCRIPTION, args=arguments)
    except SystemExit as end:
        if end.code:
            raise UserError(_one_line(told.getvalue())) from end
        raise


def _one_line(box: str) -> str:
    """What tyro says first in its box of several lines, which it draws around every mistake."""
    lines = [line.strip("│ ") for line in box.splitlines() if not line.startswith(("╭", "╰"))]
    rule = next((i for i, line in enumerate(lines) if re.fullmatch("─+", line)), len(lines))
    return " ".join(filter(None, lines[:rule])) + " (--help tells more)"
