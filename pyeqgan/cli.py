"""The `pyeqgan` command: which subcommands there are, how they are parsed and how their errors are told.

Only the command that is asked for imports torch: help and mistakes are answered at once.
"""

from __future__ import annotations

import io
import os
import re
import signal
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr
from typing import Annotated, Any, Union

import tyro

from pyeqgan.commands import (
    app,
    bench,
    data_build,
    data_inspect,
    doctor,
    evaluate,
    export,
    generate,
    info,
    report,
    train,
)
from pyeqgan.commands.command import Command
from pyeqgan.errors import UserError
from pyeqgan.options import TrainOptions

DESCRIPTION = "EqGAN: few-shot image generation on fused kernels."

COMMANDS: dict[str, Command] = {
    "train": train.COMMAND,
    "generate": generate.COMMAND,
    "evaluate": evaluate.COMMAND,
    "report": report.COMMAND,
    "app": app.COMMAND,
    "export": export.COMMAND,
    "data build": data_build.COMMAND,
    "data inspect": data_inspect.COMMAND,
    "bench": bench.COMMAND,
    "info": info.COMMAND,
    "doctor": doctor.COMMAND,
}
"""By name. "data build" is the command `build` of the group `data`, which `GROUPS` describes."""

GROUPS: dict[str, str] = {"data": "Build data sets, and look into them."}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status.

    Args:
        arguments: of the command line, without the program's name; those of the process if None.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a path or the help may not be of the terminal's encoding
    try:
        options = parse(sys.argv[1:] if arguments is None else list(arguments))
        status = next(command.run for command in COMMANDS.values() if isinstance(options, command.options))(options)
        sys.stdout.flush()
        return status
    except UserError as error:
        print(f"pyeqgan: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # as `pyeqgan info | head -1` has it: who read has read enough
        _let_go_of_output()
        return 128 + signal.SIGPIPE
    except OSError as error:  # where no code knows what it was for: a folder that may not be entered, /dev/full
        what = "" if error.filename is None else f"cannot use {error.filename}: "
        print(f"pyeqgan: {what}{error.strerror or error}", file=sys.stderr)
        _let_go_of_output()
        return 2
    except KeyboardInterrupt:
        print("pyeqgan: interrupted", file=sys.stderr)
        return 130


def _let_go_of_output() -> None:
    """Point standard output at nothing if it fails: what is left of it Python writes once more when it ends."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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


def _parse(arguments: list[str], run: TrainOptions | None = None) -> Any:
    """Parse by tyro; options of `train` that are not given are those of `run`, or else their defaults."""

    def one(words: str) -> Any:
        command, name = COMMANDS[words], words.split()[-1]
        asked = arguments[: len(words.split())] == words.split()
        text = command.help if asked else command.help.partition("\n")[0]
        kind = command.choose(arguments) if command.choose else command.options
        default: Any = tyro.MISSING_NONPROP
        if run is not None and isinstance(run, command.options):
            kind, default = type(run), run
        return Annotated[kind, tyro.conf.subcommand(name, default=default, description=text)]

    def group(name: str) -> Any:
        members = tuple(one(words) for words in COMMANDS if words.startswith(f"{name} "))
        return Annotated[Union[members], tyro.conf.subcommand(name, description=GROUPS[name])]  # noqa: UP007

    top = dict.fromkeys(words.split()[0] for words in COMMANDS)
    commands: Any = Union[tuple(group(name) if name in GROUPS else one(name) for name in top)]  # noqa: UP007
    told = io.StringIO()
    try:
        with redirect_stderr(told):
            return tyro.cli(commands, prog="pyeqgan", description=DESCRIPTION, args=arguments)
    except SystemExit as end:
        if end.code:
            raise UserError(_one_line(told.getvalue())) from end
        raise


def _one_line(box: str) -> str:
    """What tyro says of a mistake, without the title above, the advice below and the lines it draws around them, and
    of what is missing without its explanation."""
    text = re.sub(r"^[╭╰].*$|[│]", "", box, flags=re.MULTILINE)
    if "Missing from" in text:
        text = re.sub(r"^ {9,}.*$", "", text, flags=re.MULTILINE)
    sections = re.split(r"^ *[─-]+ *$", text, flags=re.MULTILINE)
    message = sections[0] if "╭" in box else sections[1]
    return " ".join(message.split()) + " (--help tells more)"
