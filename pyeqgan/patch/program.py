"""A container's forward with kernels in it, and what must stay as it was for it to hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from pyeqgan.patch import source
from pyeqgan.patch.layers import hooked
from pyeqgan.patch.matching import Found, Near
from pyeqgan.patch.recognition import Part


@dataclass(frozen=True)
class Guard:
    """What was read of an opened module; if it is no longer so, the container runs its author's forward."""

    path: str
    kind: type[nn.Module] | None  # None: the container itself, whose class is another after the swap
    children: tuple[tuple[str, type], ...]
    constants: tuple[tuple[str, Any], ...]

    @classmethod
    def of(cls, container: nn.Module, path: str) -> Guard:
        """Of the module at ``path`` in the container, as it is now."""
        module = container.get_submodule(path)
        constants = tuple(source.constants(module).items())
        return cls(path, source.authors_class(module) if path else None, _children(module), constants)

    def holds(self, container: nn.Module) -> bool:
        """Whether the module is still what was read."""
        try:
            module = container.get_submodule(self.path)
        except AttributeError:
            return False
        if self.path and (source.authors_class(module) is not self.kind or hooked(module) or "forward" in vars(module)):
            return False
        now = [getattr(module, name, None) for name, _ in self.constants]
        return _children(module) == self.children and now == [value for _, value in self.constants]


def _children(module: nn.Module) -> tuple[tuple[str, type], ...]:
    """Names and classes; of a swapped child the class it had."""
    return tuple((name, source.authors_class(child)) for name, child in module._modules.items() if child is not None)


@dataclass(frozen=True)
class Program:
    """A forward with kernels in it.

    ``run`` takes the container and its inputs, all of them. ``found`` are the kernels in it, ``near`` what nearly is
    one, ``opened`` the paths of the modules whose forward was read along.
    """

    run: Callable[..., Any]
    inputs: tuple[str, ...]
    guards: tuple[Guard, ...]
    found: tuple[Found | Part, ...]
    near: tuple[Near, ...]
    opened: frozenset[str]

    def takes(self, container: nn.Module, arguments: tuple[Any, ...], options: dict[str, Any]) -> bool:
        """Whether the graph says what the author's forward would do now."""
        if len(arguments) + len(options) != len(self.inputs):
            return False  # a default may change the course of a forward
        if any(a is None for a in (*arguments, *options.values())):
            return False  # and so may None
        return all(guard.holds(container) for guard in self.guards)
