"""Training runs in processes that are killed, each forked from one that has imported everything."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sys
from pathlib import Path
from typing import Any

import torch

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["dying", "pyeqgan.training.run"])


def run_until_killed(data: Path, output: Path, *, seconds: float | None, touches: int | None, **options: Any) -> int:
    """Begin or resume a run in a process of its own; returns its exit code, -9 if it was killed before its end.

    Args:
        data: of the run.
        output: of the run.
        seconds: kill it that long after its start; or
        touches: when it opens, renames or removes a file of the run for so many times.
        options: of the run.
    """
    process = context.Process(target=_run, args=(data, output, touches, options), daemon=True)
    process.start()
    process.join(300 if seconds is None else seconds)
    process.kill()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def _run(data: Path, output: Path, touches: int | None, options: dict[str, Any]) -> None:
    import runs

    torch.set_num_threads(1)
    left = touches or 0

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        touched = event in ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate")
        if left and touched and os.fspath(output) in str(arguments[0]):
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    resume = (output / "config.yaml").exists()
    sys.exit(runs.run(data, output, resume=resume, **options)[0])


def random_deaths(seed: int, count: int) -> list[dict[str, Any]]:
    """When to kill: half of them at any instant of the first seconds, half in the middle of the files."""
    draw = random.Random(seed)
    instants = [{"seconds": draw.uniform(0, 3), "touches": None} for _ in range(count // 2)]
    files = [{"seconds": None, "touches": draw.randint(1, 60)} for _ in range(count - count // 2)]
    deaths = instants + files[1:]
    draw.shuffle(deaths)
    # The first is certain to come: on a fast machine an instant may be too late for any of them.
    return [files[0], *deaths]
