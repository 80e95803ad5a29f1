"""What was swapped, what was left and why, and the way back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Swapped:
    """One chain of layers that a kernel now computes."""

    name: str
    """The layer that holds the chain's weights, or its module, by its name in the model."""
    layers: tuple[str, ...]
    """What the chain was made of."""
    operation: str
    """What computes it: a function of `pyeqgan.functional`."""


@dataclass(frozen=True)
class Left:
    """What nearly matches, or cannot be looked into."""

    name: str
    operation: str | None
    """What it nearly is; None where nothing is known of what it computes."""
    reason: str


@dataclass
class Report:
    """The result of :func:`pyeqgan.patch.accelerate`; printing it tells everything."""

    swapped: list[Swapped]
    left: list[Left]
    error: float | None = None
    """The largest relative difference that `verify` found, or None."""
    _undo: list[Callable[[], None]] = field(default_factory=list, repr=False)

    def undo(self) -> None:
        """Give the model its own forwards back, exactly; a second call does nothing."""
        while self._undo:
            self._undo.pop()()

    def __str__(self) -> str:
        lines = [f"swapped: {len(self.swapped)}"]
        lines += [f"  {s.name or 'the model'}: {' → '.join(s.layers)}  ⇒  {s.operation}" for s in self.swapped]
        lines += [f"left: {len(self.left)}"] if self.left else []
        for entry in self.left:
            lines.append(f"  {entry.name or 'the model'}: {entry.operation or 'not looked into'}: {entry.reason}")
        if self.error is not None:
            lines.append(f"verified: outputs and gradients differ by at most {self.error:.1e}, relative")
        return "\n".join(lines)
