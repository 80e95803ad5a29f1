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
from pathlib import Path
from typing import Annotated, Any, Union

import tyro
from tyro.conf import FlagCreatePairsOff

from pyeqgan.errors import UserError
from pyeqgan.options import EvaluateOptions, GenerateOptions, TrainOptions


@dataclass(frozen=True)
class InfoOptions:
    """Tell versions, processor, build, and which implementation of each operation runs."""

    json: FlagCreatePairsOff[bool] = False
    """Print JSON."""


@dataclass(frozen=True)
class BenchOptions:
    """Measure the operations beside eager PyTorch and torch.compile."""

    op: tuple[str, ...] = ()
    """Operations to measure. Default: all."""
    threads: tuple[int, ...] = (1, 2)
    """Numbers of threads to measure with."""
    rounds: int = 30
    """Interleaved rounds per case."""
    compiled: bool = True
    """Measure torch.compile, too; it takes most of the time."""
    json: FlagCreatePairsOff[bool] = False
    """Print JSON."""
    output: Path | None = None
    """File for the raw numbers, JSON. Default: none."""


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
  pyeqgan train --output runs/photos --resume --devices 4
  torchrun --nproc-per-node 4 -m pyeqgan train --output runs/photos --resume
  pyeqgan train --output runs/photos --resume --profile

notes:
  A run writes config.yaml, metrics.jsonl, losses.png, samples/ and checkpoints/
  into its folder. SIGTERM or Ctrl-C end it with a checkpoint, and with status
  128 plus the signal's number.
  The learning rate is constant for half of --steps, then falls linearly to 0.
  With --resume only --steps, the three intervals, --prefetch, --workers, --device,
  --devices, --nodes and --strategy may differ from the run's. With more --steps
  the learning rate is that of the new total from there on, so it may rise again.
  On the CPU, with as many threads and processes, a resumed run ends bit for bit
  as one that was never interrupted; another number of processes changes rounding
  only. With --nodes the same command runs on every machine, with MASTER_ADDR,
  MASTER_PORT and NODE_RANK in its environment.
  --profile takes six steps of one process, tells where their time went, by part
  and by operation, and keeps nothing of them but profile/table.txt and
  profile/trace.json.gz (for chrome://tracing). The folder need not hold a run yet.
  --force removes the files that the earlier run made, and never any others."""

GENERATE = """Generate images of the class that some images show, with a trained generator.

examples:
  pyeqgan generate --checkpoint runs/photos --images a.jpg b.jpg --output new
  pyeqgan generate --checkpoint runs/photos/checkpoints/step_00002000 \\
      --images lily/*.jpg --count 64 --seed 7 --output lilies"""

EVALUATE = """Evaluate a trained generator on unseen classes, beside two trivial generators.

examples:
  pyeqgan evaluate --checkpoint runs/photos --output runs/photos/evaluation
  pyeqgan evaluate --checkpoint runs/photos --data others --output others-evaluated

notes:
  The trivial ones copy a reference and take the pixel mean of references. All
  are compared with real images in the features of a network trained on the seen
  classes of the same data."""

INFO = """Tell versions, processor, build, and which implementation of each operation runs.

examples:
  pyeqgan info
  pyeqgan info --json"""

BENCH = """Measure the operations beside eager PyTorch and torch.compile.

examples:
  pyeqgan bench
  pyeqgan bench --op bilateral_propagation --threads 1 --no-compiled"""

DOCTOR = """Run every operation on every backend and compare it with its oracle.

examples:
  pyeqgan doctor

notes:
  The status is 0 if all agree."""


COMMANDS: dict[str, tuple[type, str]] = {
    "train": (TrainOptions, TRAIN),
    "generate": (GenerateOptions, GENERATE),
    "evaluate": (EvaluateOptions, EVALUATE),
    "bench": (BenchOptions, BENCH),
    "info": (InfoOptions, INFO),
    "doctor": (DoctorOptions, DOCTOR),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status.

    Args:
        arguments: of the command line, without the program's name; those of the process if None.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a path or the help may not be of the terminal's encoding
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
        from pyeqgan.trained import generate

        generate(options, print)
        return 0
    if isinstance(options, EvaluateOptions):
        from rich.console import Console

        from pyeqgan.trained import evaluate
        from pyeqgan.training.progress import stages

        with stages(Console()) as progress:
            evaluate(options, print, progress)
        return 0
    if isinstance(options, BenchOptions):
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
    if isinstance(options, InfoOptions):
        from pyeqgan.info import main_info

        return main_info(as_json=options.json)
    from pyeqgan import doctor

    return doctor.main()


def _parse(arguments: list[str], run: TrainOptions | None = None) -> Any:
    """Parse by tyro; options of `train` that are not given are those of `run`, or else their defaults."""

    def command(name: str, options: type, description: str) -> Any:
        text = description if arguments[:1] == [name] else description.partition("\n")[0]
        default = run if run is not None and name == "train" else tyro.MISSING_NONPROP
        return Annotated[options, tyro.conf.subcommand(name, default=default, description=text)]

    commands: Any = Union[tuple(command(name, *about) for name, about in COMMANDS.items())]  # noqa: UP007
    told = io.StringIO()
    try:
        with redirect_stderr(told):
            return tyro.cli(commands, prog="pyeqgan", description=DESCRIPTION, args=arguments)
    except SystemExit as end:
        if end.code:
            raise UserError(_one_line(told.getvalue())) from end
        raise


def _one_line(box: str) -> str:
    """What tyro says of a mistake, without the title above, the advice below and the lines it draws around them."""
    text = re.sub(r"^[╭╰].*$|[│]", "", box, flags=re.MULTILINE)
    sections = re.split(r"^ *[─-]+ *$", text, flags=re.MULTILINE)
    message = sections[0] if "╭" in box else sections[1]
    return " ".join(message.split()) + " (--help tells more)"
