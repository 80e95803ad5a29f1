"""What `pyeqgan doctor` found on a GPU, kept for the processes after it.

A record holds for one model of GPU, one torch, one Triton and one state of the kernels' sources. It lies in the user's
cache (`$XDG_CACHE_HOME/pyeqgan/gpu`, by default `~/.cache/pyeqgan/gpu`). Those in `pyeqgan/recorded`, if any, were made
by us and hold for every GPU of their architecture.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pyeqgan.files import write_whole, writing

TOLERANCE = 1e-4
SHIPPED = Path(__file__).parent / "recorded"


@dataclass(frozen=True)
class Verdict:
    """How one operation did on one backend.

    Attributes:
        operation, backend, device: what ran where.
        error: the largest relative error of its result and gradients.
        problem: what broke, if something did.
        milliseconds: of forward and backward at a size of the models, on a GPU; None elsewhere.
    """

    operation: str
    backend: str
    device: str
    error: float
    problem: str = ""
    milliseconds: float | None = None

    @property
    def passed(self) -> bool:
        """Whether it ran and its error is small."""
        return not self.problem and self.error <= TOLERANCE


@dataclass(frozen=True)
class Gpu:
    """A model of GPU and what runs on it; records are kept by it."""

    name: str
    architecture: str
    torch: str
    triton: str | None
    kernels: str

    @classmethod
    def current(cls, sources: str) -> Gpu:
        """That of this process; `sources` tells the compiled kernels apart. There must be one."""
        properties = torch.cuda.get_device_properties(torch.cuda.current_device())
        try:
            triton = importlib.metadata.version("triton")
        except importlib.metadata.PackageNotFoundError:
            triton = None
        return cls(
            properties.name,
            f"sm{properties.major}{properties.minor}",
            torch.__version__,
            triton,
            _kernels_digest(sources),
        )


def keep(gpu: Gpu, verdicts: list[Verdict]) -> Path:
    """Write a record; returns its file. UserError if that fails."""
    path = _file(gpu)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    record = {
        **dataclasses.asdict(gpu),
        "date": time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime()),
        "verdicts": [dataclasses.asdict(verdict) for verdict in verdicts],
    }
    write_whole(path, json.dumps(record, indent=1).encode())
    return path


def recorded(gpu: Gpu) -> list[Verdict] | None:
    """The verdicts on this GPU, the user's own before ours; None if there are none, or they cannot be read."""
    own = _read(_file(gpu))
    if own is not None:
        return _verdicts(own)
    for path in sorted(SHIPPED.glob("*.json")):
        ours = _read(path)
        if ours is not None and (ours["architecture"], ours["kernels"]) == (gpu.architecture, gpu.kernels):
            return _verdicts(ours)
    return None


def _verdicts(record: dict[str, Any]) -> list[Verdict]:
    return [Verdict(**about) for about in record["verdicts"]]


def _read(path: Path) -> dict[str, Any] | None:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        record: dict[str, Any] = json.loads(path.read_text())
        _verdicts(record)
        return record
    return None


def _file(gpu: Gpu) -> Path:
    home = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(home) if os.path.isabs(home) else Path.home() / ".cache"
    key = hashlib.sha256(repr(gpu).encode()).hexdigest()[:16]
    return base / "pyeqgan" / "gpu" / f"{key}.json"


def _kernels_digest(sources: str) -> str:
    """Of the Triton kernels' files, and of what the compiled ones were made from."""
    total = hashlib.sha256(sources.encode())
    found = importlib.util.find_spec("pyeqgan.kernels")
    if found is not None and found.origin is not None:
        for path in sorted(Path(found.origin).parent.glob("*.[pj][ys]*")):
            total.update(path.name.encode() + path.read_bytes())
    return total.hexdigest()[:16]
