"""Which implementation of an operation runs on which device, and why.

Every operation has a slot per device in torch's dispatcher. The oracle fills all of them; importing the compiled
module replaces it on the CPU wherever that holds a kernel, and on a GPU :mod:`pyeqgan.router` chooses. The choice is
made once per process. :func:`explain` tells it, :func:`force` overrides it for a while.

Set PYEQGAN_REQUIRE_NATIVE=1 to make a missing compiled module an error instead of a warning.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from pyeqgan.ops import _library
from pyeqgan.router import Router
from pyeqgan.verdicts import Gpu

# Operations that are composed of others and of torch's own, without a slot of their own.
COMPOSED = {
    "multiscale_contrastive_loss": "contrastive_loss within and across scales",
}

BACKENDS = ("native", "cuda", "triton", "reference")


@dataclass(frozen=True)
class Choice:
    """The implementation of one operation on one device, and the reason for it."""

    backend: str
    reason: str


class _Native:
    """The compiled module, or why there is none."""

    module: Any = None
    kernels: ClassVar[dict[str, Any]] = {}
    problem: str = "pyeqgan.functional has not been imported"
    loaded: bool = False
    router: Router | None = None


def load_native() -> None:
    """Import the compiled module, which registers its CPU kernels; once, when :mod:`pyeqgan.functional` is imported or
    something is asked of the operations before.

    Raises:
        ImportError: it cannot be imported and PYEQGAN_REQUIRE_NATIVE=1. Otherwise a warning says so.
    """
    if _Native.loaded:
        return
    _import_native()
    _Native.loaded = True
    if torch.version.cuda is not None:
        _Native.router = Router(_with_gpu_kernels(), _cuda_sources(), _gpu_kernels)
        _Native.router.install()


def _import_native() -> None:
    try:
        _Native.module = importlib.import_module("pyeqgan._C")
    except ImportError as error:
        _Native.problem = f"the compiled module pyeqgan._C cannot be imported ({error})"
        message = f"pyeqgan: {_Native.problem}; every operation runs its plain PyTorch reference on the CPU"
        if os.environ.get("PYEQGAN_REQUIRE_NATIVE") == "1":
            raise ImportError(f"{message}, which PYEQGAN_REQUIRE_NATIVE=1 forbids") from error
        warnings.warn(message, RuntimeWarning, stacklevel=3)
        return
    for name in _library.ORACLES:
        qualified = f"{_library.NAMESPACE}::{name}"
        if torch._C._dispatch_has_kernel_for_dispatch_key(qualified, "CPU"):
            _Native.kernels[name] = torch.library.get_kernel(qualified, "CPU")


def native_module() -> Any:
    """The compiled module pyeqgan._C, or None."""
    return _Native.module


def current_gpu() -> Gpu:
    """The GPU of this process, by which verdicts on its kernels are kept."""
    return Gpu.current(_cuda_sources())


def _cuda_sources() -> str:
    return str(_Native.module.build_info()["cuda_sources"]) if _Native.module is not None else ""


def operations() -> list[str]:
    """The names of the public operations, sorted."""
    load_native()
    return sorted({*(n for n in _library.ORACLES if not n.endswith("_backward")), *COMPOSED})


def explain() -> dict[str, dict[str, Choice]]:
    """For every public operation, what runs on "cpu" and on "cuda" tensors, and why."""
    return {name: {device: _explain(name, device) for device in ("cpu", "cuda")} for name in operations()}


def has_kernel(name: str, device: str) -> bool:
    """Whether an operation runs a fused kernel on a type of device ("cpu", "cuda", …), not its oracle."""
    forced = _forced.get(name)
    if forced is not None and device in forced[1]:
        return forced[0] != "reference"
    if device == "cuda" and _Native.router is not None:
        return _Native.router.backend(name) != "reference"
    return device == "cpu" and name in _Native.kernels


def _explain(name: str, device: str) -> Choice:
    if name in COMPOSED:
        return Choice("composed", COMPOSED[name])
    forced = _forced.get(name)
    if forced is not None and device in forced[1]:
        return Choice(forced[0], "forced by backends.force")
    if device == "cuda":
        if _Native.router is not None and _Native.router.choices is not None and name in _Native.router.choices:
            return Choice(*_Native.router.choices[name])
        have = [b for b in ("cuda", "triton") if _gpu_kernels(b, name) is not None]
        if not have:
            return Choice("reference", "no GPU kernel yet")
        return Choice("reference", f"no recorded passing run on this GPU; backends.force offers {' and '.join(have)}")
    if name in _Native.kernels:
        return Choice("native", f"compiled kernel, {_Native.module.cpu_capability()}")
    return Choice("reference", "no native kernel yet" if _Native.module is not None else _Native.problem)


def _boxed(kernel: Any) -> Callable[..., Any]:
    keys = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)
    return lambda *arguments: kernel.call_boxed(keys, *arguments)


def _gpu_kernels(backend: str, name: str) -> dict[str, Callable[..., Any]] | None:
    """The kernels of an operation and of its backward by the operations' names, or None where there are none."""
    names = [n for n in (name, f"{name}_backward") if n in _library.ORACLES]
    if backend == "cuda":
        namespace = torch.ops.pyeqgan_cuda
        if not all(hasattr(namespace, n) for n in names):
            return None
        return {n: getattr(namespace, n).default for n in names}
    try:
        module = importlib.import_module(f"pyeqgan.kernels.{name}")
    except ImportError:
        return None
    return {n: module.backward if n.endswith("_backward") else module.forward for n in names}


def _with_gpu_kernels() -> list[str]:
    """Operations that have a GPU kernel here; Triton is not imported to find out."""
    found = importlib.util.find_spec("triton") and importlib.util.find_spec("pyeqgan.kernels")
    folder = None if found is None or found.origin is None else Path(found.origin).parent
    own = [name for name in operations() if name not in COMPOSED]
    compiled = [name for name in own if hasattr(torch.ops.pyeqgan_cuda, name)]
    return [n for n in own if n in compiled or (folder is not None and (folder / f"{n}.py").exists())]


def decompositions() -> dict[Any, Callable[..., Any]]:
    """The oracles by operation, for :meth:`torch.export.ExportedProgram.run_decompositions`.

    An exported program that is decomposed by them holds torch's own operations alone, and runs where pyeqgan is not
    installed. Forward operations only: a program is exported to be run, not trained.
    """
    forward = [name for name in _library.ORACLES if not name.endswith("_backward")]
    return {getattr(torch.ops.pyeqgan, name).default: _library.ORACLES[name] for name in forward}


def available(backend: str, name: str) -> bool:
    """Whether an operation has a kernel of this backend here."""
    return _kernels(backend, name) is not None


_forced: dict[str, tuple[str, tuple[str, ...]]] = {}


@contextmanager
def force(backend: str, *names: str) -> Iterator[None]:
    """Run operations on one backend, for every thread of the process, until the context is left.

    Args:
        backend: "reference" (the oracle, on any device), "native" (the compiled CPU kernels), "triton" or "cuda" (the
            GPU kernels; "triton" also on the CPU under TRITON_INTERPRET=1).
        names: the operations; none means every operation that has a kernel there.

    Raises:
        ValueError: an unknown backend or operation.
        RuntimeError: a named operation (or all) has no kernel of that backend here.
    """
    if backend not in BACKENDS:
        raise ValueError(f"force: backend: expected one of {', '.join(BACKENDS)}, got {backend!r}")
    own = [n for n in operations() if n not in COMPOSED]
    for name in names:
        if name not in own:
            raise ValueError(f"force: names: expected among {', '.join(own)}, got {name!r}")
    kernels: dict[str, Callable[..., Any]] = {}
    chosen = []
    for name in names or own:
        found = _kernels(backend, name)
        if found is None:
            if names:
                raise RuntimeError(f"force: {name} has no {backend!r} kernel here")
            continue
        chosen.append(name)
        kernels.update(found)
    if not chosen:
        problem = _Native.problem if backend == "native" and _Native.module is None else "no operation has one here"
        raise RuntimeError(f"force: backend {backend!r}: {problem}")
    devices = _devices(backend)
    library = torch.library.Library(_library.NAMESPACE, "IMPL")
    before = dict(_forced)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of overriding and 2.11 forbids it: it was asked for
            for name, kernel in kernels.items():
                for device in devices:
                    library.impl(name, kernel, device.upper(), allow_override=True)
        _forced.update(dict.fromkeys(chosen, (backend, devices)))
        yield
    finally:
        library._destroy()
        _forced.clear()
        _forced.update(before)


def _kernels(backend: str, name: str) -> dict[str, Callable[..., Any]] | None:
    names = [n for n in (name, f"{name}_backward") if n in _library.ORACLES]
    if backend == "native":
        if not all(n in _Native.kernels for n in names):
            return None
        # Already in its slot, unless another backend is forced there just now.
        return {n: _boxed(_Native.kernels[n]) for n in names} if name in _forced else {}
    if backend == "reference":
        return {n: _library.as_kernel(_library.ORACLES[n]) for n in names}
    return _gpu_kernels(backend, name)


def _devices(backend: str) -> tuple[str, ...]:
    if backend == "reference":
        return ("cpu", "cuda")
    if backend == "native":
        return ("cpu",)
    interpreted = backend == "triton" and os.environ.get("TRITON_INTERPRET") == "1"
    return ("cpu", "cuda") if interpreted else ("cuda",)
