"""Several processes on this machine that talk by gloo, without a port: a file is where they meet."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def run(function: Callable[..., Any], count: int, folder: Path, *arguments: Any) -> list[Any]:
    """What `function(rank, *arguments)` returns in each of `count` new processes; raises if it does in one.

    `folder` must be new to every call. Results pass through `torch.save`.
    """
    mp.spawn(_work, (function, count, str(folder), arguments), nprocs=count)
    return [torch.load(folder / str(rank), weights_only=False) for rank in range(count)]


def _work(rank: int, function: Callable[..., Any], count: int, folder: str, arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=count)
    try:
        torch.save(function(rank, *arguments), f"{folder}/{rank}")
    finally:
        dist.destroy_process_group()
