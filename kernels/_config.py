"""Tile sizes of the Triton kernels: the defaults of each architecture, kept in tiles.json beside this file.

The first entry of a kernel is its default. With PYEQGAN_AUTOTUNE=1 all entries of the architecture are timed at first
use of each problem size, which synchronises and cannot happen while a CUDA graph is captured.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import triton

TILES: dict[str, dict[str, list[dict[str, int]]]] = json.loads(
    Path(__file__).with_name("tiles.json").read_text(encoding="utf-8")
)


def architecture() -> str:
    """The key of tiles.json for this process: "interpreter", or "sm90" and the like, or "default"."""
    if triton.knobs.runtime.interpret:
        return "interpreter"
    if not torch.cuda.is_available():
        return "default"
    major, minor = torch.cuda.get_device_capability()
    return f"sm{major}{minor}"


def configs(kernel: str, arch: str | None = None, autotune: bool | None = None) -> list[triton.Config]:
    """The configurations of a kernel to choose from: one, unless autotuning is asked for.

    Args:
        kernel: its name in tiles.json; a KeyError names one that is not there.
        arch: an architecture of tiles.json, this process's own by default; an unknown one means "default".
        autotune: whether to offer all configurations, PYEQGAN_AUTOTUNE=1 by default.
    """
    entries = {**TILES["default"], **TILES.get(arch or architecture(), {})}[kernel]
    if autotune is None:
        autotune = os.environ.get("PYEQGAN_AUTOTUNE") == "1"
    return [
        triton.Config(
            {k: v for k, v in entry.items() if k.isupper()}, **{k: v for k, v in entry.items() if not k.isupper()}
        )
        for entry in (entries if autotune else entries[:1])
    ]


def tiled(name: str, key: Sequence[str]) -> Callable[[Any], Any]:
    """Decorator of a kernel: tile sizes, warps and stages come from tiles.json; ``key`` tells problems apart."""
    return triton.autotune(configs=configs(name), key=list(key))  # type: ignore[no-any-return]
