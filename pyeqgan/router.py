"""Which kernel an operation runs on a GPU unless one is forced: decided once per process, at its first CUDA tensor.

The fastest of those that `pyeqgan doctor` has found right on this GPU. Where it has not been asked the plain PyTorch
reference runs, and a warning says so: a kernel that was never seen to be right is nobody's default. No GPU kernel
computes in float64, which is the reference's on every GPU.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch

from pyeqgan import verdicts
from pyeqgan.ops import _library

Kernels = dict[str, Callable[..., Any]]
"""By the names of an operation and of its backward."""


class Router:
    """Fills the CUDA slot of every operation that has GPU kernels.

    Args:
        names: of the operations.
        sources: tells the compiled kernels apart, see `verdicts.Gpu`.
        kernels: of an operation on "cuda" or "triton"; None where there are none. Called once a decision is due.
    """

    def __init__(self, names: list[str], sources: str, kernels: Callable[[str, str], Kernels | None]) -> None:
        self._names = names
        self._sources = sources
        self._kernels = kernels
        self._chosen: Kernels = {}
        self._library: Any = None
        self.choices: dict[str, tuple[str, str]] | None = None
        """Backend and reason by operation, once they are decided."""

    def install(self) -> None:
        """Register for CUDA; nothing of CUDA is initialised by it."""
        self._library = torch.library.Library(_library.NAMESPACE, "IMPL")
        for name in self._names:
            for each in _with_backward(name):
                self._library.impl(each, self._entry(each), "CUDA")

    def decide(self, gpu: verdicts.Gpu) -> dict[str, tuple[str, str]]:
        """Backend and reason by operation, from what is recorded of this GPU; warns if nothing is."""
        record = verdicts.recorded(gpu)
        if record is None:
            warnings.warn(
                f"pyeqgan: nothing is recorded of its kernels on this {gpu.name} ({gpu.architecture}): the plain "
                "PyTorch references run. `pyeqgan doctor` checks the kernels here and keeps its verdict for the next "
                "process.",
                RuntimeWarning,
                stacklevel=2,
            )
        return {name: self._best(name, record) for name in self._names}

    def _best(self, name: str, record: list[verdicts.Verdict] | None) -> tuple[str, str]:
        if record is None:
            return "reference", "no recorded passing run on this GPU: pyeqgan doctor makes one"
        passed = {v.backend: v.milliseconds for v in record if _is(v, name) and v.passed and v.milliseconds is not None}
        times = {b: t for b, t in passed.items() if b == "reference" or self._kernels(b, name) is not None}
        if not times:
            return "reference", "no kernel has passed on this GPU"
        best = min(times, key=lambda backend: times[backend])
        told = ", ".join(
            f"{backend} {time:.3g} ms" for backend, time in sorted(times.items(), key=lambda item: item[1])
        )
        return best, f"the fastest that has passed on this GPU ({told})"

    def _entry(self, name: str) -> Callable[..., Any]:
        reference = _library.as_kernel(_library.ORACLES[name])

        def run(*arguments: Any) -> Any:
            if _is_double(arguments[0]):
                return reference(*arguments)
            self.ensure()
            return self._chosen[name](*arguments)

        return run

    def backend(self, name: str) -> str:
        """What an operation runs; "reference" where there is no GPU kernel. There must be a GPU."""
        self.ensure()
        assert self.choices is not None
        return self.choices[name][0] if name in self.choices else "reference"

    def ensure(self) -> None:
        """Decide, unless it has been done. There must be a GPU."""
        if self.choices is None:
            choices = self.decide(verdicts.Gpu.current(self._sources))
            self._chosen = self._of(choices)
            self.choices = choices

    def _of(self, choices: Mapping[str, tuple[str, str]]) -> Kernels:
        chosen: Kernels = {}
        for name, (backend, _) in choices.items():
            found = None if backend == "reference" else self._kernels(backend, name)
            references = {n: _library.as_kernel(_library.ORACLES[n]) for n in _with_backward(name)}
            chosen |= references if found is None else found
        return chosen


def _is_double(first: Any) -> bool:
    """Of an operation's first argument, a tensor or a list of them: of a backward it is the incoming gradient."""
    tensor = first[0] if isinstance(first, list) else first
    return bool(tensor.dtype == torch.float64)


def _is(verdict: verdicts.Verdict, name: str) -> bool:
    return verdict.operation == name and verdict.device == "cuda"


def _with_backward(name: str) -> list[str]:
    return [n for n in (name, f"{name}_backward") if n in _library.ORACLES]
