"""What the fields of several commands share: a type, and how a value is named, bounded and read back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args, get_type_hints

from tyro.conf import arg

from pyeqgan.errors import UserError

Device = Literal["auto", "cpu", "cuda"]

TOLD = arg(help_behavior_hint="")
"""Annotates a field whose help tells what it is without a value, so that the parser does not add "default: None"."""


@dataclass(frozen=True)
class Of:
    """Annotates a field of a command's options that one model alone knows; see `fields_of_others`."""

    model: str


def fields_of_others(options: type, model: str) -> list[str]:
    """The fields that are annotated as another model's."""
    hints = get_type_hints(options, include_extras=True)
    marks = {name: [mark for mark in get_args(hint) if isinstance(mark, Of)] for name, hint in hints.items()}
    return [name for name, found in marks.items() if any(mark.model != model for mark in found)]


def flag(name: str) -> str:
    """A field's name as it is typed: "batch_size" is "--batch-size"."""
    return "--" + name.replace("_", "-")


def at_least(name: str, value: int, least: int) -> None:
    """UserError unless a field's value is at least so much."""
    if value < least:
        raise UserError(f"{flag(name)} {value}, expected at least {least}")


def typed(name: str, value: Any, hint: Any) -> Any:
    """`value` as the type a field declares. YAML reads 1e-4 as a string, hence the conversion of numbers."""
    choices = get_args(hint)
    if hint is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            return float(value)
        except ValueError:
            pass
    elif choices and all(isinstance(choice, str) for choice in choices):
        if value in choices:
            return value
    elif type(value) in (choices or (hint,)):
        return value
    expected = " or ".join(getattr(choice, "__name__", str(choice)) for choice in (choices or (hint,)))
    raise UserError(f"{name}: expected {expected}, got {value!r}")
