"""The container that runs a program in the place of its own forward."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import nn

from pyeqgan.patch import tracing, writing
from pyeqgan.patch.program import Program
from pyeqgan.patch.source import AUTHORS_FORWARD, authors_class

_PROGRAM = "_pyeqgan_program"


def install(container: nn.Module, program: Program) -> None:
    """Let the container run the program; its class becomes a subclass of the same name, all else stays."""
    vars(container)[_PROGRAM] = program
    container.__class__ = _accelerated(type(container))  # type: ignore[arg-type]


def remove(container: nn.Module) -> None:
    """Undo `install`."""
    vars(container).pop(_PROGRAM, None)
    container.__class__ = authors_class(container)


def installed(container: nn.Module) -> bool:
    """Whether the container runs a program, or may."""
    return hasattr(type(container), AUTHORS_FORWARD)


@functools.cache
def _accelerated(kind: type[nn.Module]) -> type[nn.Module]:
    """A subclass that runs the program of its instance wherever that holds, and the author's forward elsewhere.

    A class, not a forward on the instance: so copies, pickles and the replicas of data parallelism run on their own
    tensors. A copy or an unpickled container writes its program anew when it is first called.
    """
    authors = kind.forward

    @functools.wraps(authors)
    def forward(self: nn.Module, *arguments: Any, **options: Any) -> Any:
        program = _program(self)
        if program is None or not program.takes(self, arguments, options):
            return authors(self, *arguments, **options)
        return program.run(self, *arguments, **options)

    def reduce(self: nn.Module, protocol: Any) -> Any:
        _, (_, *others), state, *rest = super(accelerated, self).__reduce_ex__(protocol)  # type: ignore[arg-type]
        if isinstance(state, dict):
            state = {name: value for name, value in state.items() if name != _PROGRAM}
        return _new, (kind, *others), state, *rest

    accelerated = type(
        kind.__name__,
        (kind,),
        {
            "__module__": kind.__module__,
            "__qualname__": kind.__qualname__,
            "__doc__": kind.__doc__,
            "__reduce_ex__": reduce,
            "forward": forward,
            AUTHORS_FORWARD: authors,
        },
    )
    return accelerated


def _new(kind: type[nn.Module], *arguments: Any) -> nn.Module:
    accelerated = _accelerated(kind)  # type: ignore[arg-type]
    return accelerated.__new__(accelerated, *arguments)


def _program(container: nn.Module) -> Program | None:
    if _PROGRAM not in vars(container):
        if torch.compiler.is_compiling():
            return None  # two tracers at a time are one too many
        try:
            program = writing.write(container)
        except tracing.Untraceable:
            program = None
        vars(container)[_PROGRAM] = program
    found: Program | None = vars(container)[_PROGRAM]
    return found
