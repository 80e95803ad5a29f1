"""`pyeqgan train --profile`: where the time of a run's steps goes."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity
from torch.profiler import profile as recorded

from pyeqgan.files import write_durably, writing
from pyeqgan.telling import Report
from pyeqgan.training.engine import Engine
from pyeqgan.training.progress import Waiting

WARM_UP, STEPS = 2, 4
OPERATIONS = 20
# The spans that the step, the engine and `Waiting` mark, in the order of a step.
PARTS = (
    "data",
    "discriminator: fakes",
    "discriminator: forward",
    "discriminator: penalty",
    "discriminator: backward, second order",
    "discriminator: backward",
    "generator: forward",
    "generator: backward",
    "optimiser",
    "average",
)


def profile(engine: Engine, batches: Iterable[Any], folder: Path, report: Report) -> None:
    """Take `WARM_UP` steps and then `STEPS` under torch's profiler; write `table.txt` and `trace.json.gz` to `folder`.

    The engine has gone on afterwards, but nothing of it is saved.

    Args:
        engine: of the run, where it is.
        batches: of its next steps, as many at least.
        folder: made if missing; earlier files of these names are replaced.
        report: called with each line of the table.

    Raises:
        UserError: a file cannot be written.
    """
    activities = [ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * torch.cuda.is_available()]
    ahead = iter(Waiting(batches))
    for _ in range(WARM_UP):
        _step(engine, next(ahead))
    first = engine.step + 1
    began = time.monotonic()
    with recorded(activities=activities) as profiler:
        for _ in range(STEPS):
            _step(engine, next(ahead))
    seconds = (time.monotonic() - began) / STEPS
    lines = [
        f"steps {first} to {engine.step}: {1e3 * seconds:.1f} ms each, {_peak_memory()}",
        *_table(profiler, seconds),
    ]
    with writing(folder):
        folder.mkdir(exist_ok=True)
        write_durably(folder / "table.txt", ("\n".join(lines) + "\n").encode())
        profiler.export_chrome_trace(str(folder / "trace.json.gz"))
    for line in lines:
        report(line)
    report(f"{folder}: table.txt, and trace.json.gz for chrome://tracing or ui.perfetto.dev")


def _step(engine: Engine, batch: Any) -> None:
    engine.advance(batch)
    if torch.cuda.is_available():
        torch.cuda.synchronize()  # so that a step's time holds its kernels


def _table(profiler: recorded, seconds: float) -> list[str]:
    """Milliseconds a step by part and by operation, on the host and, where there is one, on the GPU."""
    events = {event.key: event for event in profiler.key_averages()}
    gpu = torch.cuda.is_available()

    def line(name: str, host: float, device: float, calls: str = "") -> str:
        on_device = f"{device / 1e3 / STEPS:12.2f}" if gpu else ""
        return f"{name:64}{host / 1e3 / STEPS:12.2f}{host / 1e6 / STEPS / seconds:9.1%}{on_device}{calls}"

    header = f"{'':64}{'ms a step':>12}{'share':>9}" + (f"{'ms on GPU':>12}" if gpu else "")
    parts = [(name, events[name].cpu_time_total, events[name].device_time_total) for name in PARTS if name in events]
    rest = 1e6 * seconds * STEPS - sum(host for _, host, _ in parts)
    operations = [event for event in events.values() if event.key not in PARTS]
    key = "self_device_time_total" if gpu else "self_cpu_time_total"
    operations.sort(key=lambda event: getattr(event, key), reverse=True)
    return [
        "",
        header,
        *(line(*part) for part in parts),
        line("rest", rest, 0.0),
        "",
        header + f"{'calls':>10}",
        *(
            line(e.key[:63], e.self_cpu_time_total, e.self_device_time_total, f"{e.count / STEPS:10.1f}")
            for e in operations[:OPERATIONS]
        ),
    ]


def _peak_memory() -> str:
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes
    peak = f"process up to {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20:.0f} MiB"
    if torch.cuda.is_available():
        peak += f", GPU up to {torch.cuda.max_memory_allocated() / 2**20:.0f} MiB"
    return peak
