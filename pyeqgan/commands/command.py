"""What a module of this package is to the command line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Command:
    """One subcommand.

    Attributes:
        options: dataclass of what it can be told; its field docstrings are the help.
        help: a line, then examples and notes that its own --help shows.
        run: called with an instance of `options`; returns the exit status.
        choose: called with the arguments; returns the subclass of `options` that they are of.
    """

    options: type
    help: str
    run: Callable[[Any], int]
    choose: Callable[[Sequence[str]], type] | None = None
