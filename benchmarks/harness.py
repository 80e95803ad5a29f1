"""Measure the operations beside eager PyTorch and torch.compile, in one process, interleaved, after a match check."""

from __future__ import annotations

import ctypes
import gc
import json
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyeqgan import info
from pyeqgan.benchmarks.cases import Case, cases
from pyeqgan.errors import UserError

FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


@dataclass(frozen=True)
class Timing:
    """Seconds of one contender: median and quartiles over the rounds, and its peak memory above the inputs."""

    median: float
    lower_quartile: float
    upper_quartile: float
    peak_bytes: int


@dataclass(frozen=True)
class Result:
    """One case at one number of threads: contenders, and ours against the best of the others."""

    operation: str
    problem: str
    layout: str
    threads: int
    pass_: str
    timings: dict[str, Timing]
    error: float
    ratio: float | None
    ratio_interval: tuple[float, float] | None
    gflops: float | None


def step(function: Callable[..., Tensor], inputs: Sequence[Tensor]) -> list[Tensor]:
    """Forward and backward: the output and all gradients, for an upstream gradient of ones scaled by the output."""
    y = function(*inputs)
    return [y.detach(), *torch.autograd.grad(y, inputs, y.detach())]


def match_error(case: Case, inputs: Sequence[Tensor]) -> float:
    """The largest relative error of ours against the eager form in float64."""
    ours = step(case.ours, inputs)
    truth = step(case.eager, [t.detach().double().requires_grad_() for t in inputs])
    floor = 1e-3 * max(float(t.norm()) for t in truth)
    return max(float((a.double() - t).norm() / t.norm().clamp_min(floor)) for a, t in zip(ours, truth, strict=True))


def peak_bytes(run: Callable[[], object]) -> int:
    """How far the process grows while ``run`` runs, in bytes (Linux; 0 elsewhere)."""
    try:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        before = _status("VmRSS")
        run()
        return max(0, _status("VmHWM") - before)
    except (OSError, AttributeError):
        return 0


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise OSError(field)


def interleave(contenders: dict[str, Callable[[], object]], *, rounds: int, budget: float) -> dict[str, list[float]]:
    """Time A B C A B C …: at least 5 and at most ``rounds`` rounds, about ``budget`` seconds."""
    for run in contenders.values():
        run()
        run()
    times: dict[str, list[float]] = {name: [] for name in contenders}
    start = time.perf_counter()
    for done in range(rounds):
        if done >= 5 and time.perf_counter() - start > budget:
            break
        for name, run in contenders.items():
            begin = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - begin)
    return times


def bootstrap_ratio(ours: list[float], best: list[float], *, draws: int = 2000) -> tuple[float, float]:
    """A 95 % interval of the ratio of medians, rounds resampled together."""
    draw = random.Random(0)
    ratios = []
    for _ in range(draws):
        index = [draw.randrange(len(ours)) for _ in ours]
        ratios.append(statistics.median(ours[i] for i in index) / statistics.median(best[i] for i in index))
    ratios.sort()
    return ratios[draws // 40], ratios[-draws // 40]


def measure(
    case: Case, layout: str, threads: int, *, rounds: int = 30, budget: float = 4.0, compiled: bool = True
) -> Result:
    """One case; a case that does not match the eager form in float64 gets no time."""
    torch.set_num_threads(threads)
    inputs = [t.requires_grad_() for t in case.make(FORMATS[layout])]
    error = match_error(case, inputs)
    label = (case.operation, case.problem, layout, threads, "forward+backward")
    if not error < 1e-3:
        return Result(*label, {}, error, None, None, None)
    contenders: dict[str, Callable[[], object]] = {
        "pyeqgan": lambda: step(case.ours, inputs),
        "eager": lambda: step(case.eager, inputs),
    }
    if compiled:
        torch.compiler.reset()
        program = torch.compile(case.eager)
        contenders["torch.compile"] = lambda: step(program, inputs)
    times = interleave(contenders, rounds=rounds, budget=budget)
    timings = {
        name: Timing(*(statistics.quantiles(t, n=4)[i] for i in (1, 0, 2)), peak_bytes(contenders[name]))
        for name, t in times.items()
    }
    best = min((n for n in timings if n != "pyeqgan"), key=lambda n: timings[n].median)
    ours = timings["pyeqgan"].median
    return Result(
        *label,
        timings,
        error,
        ours / timings[best].median,
        bootstrap_ratio(times["pyeqgan"], times[best]),
        case.flops / ours / 1e9 if case.flops else None,
    )


def roofs(threads: int) -> dict[str, float]:
    """What this machine does now: a large float32 product in GFLOP/s and a copy beyond the caches in GB/s."""
    torch.set_num_threads(threads)
    a = torch.randn(2048, 2048)
    source = torch.randn(64 * 2**20)
    target = torch.empty_like(source)
    times = interleave({"product": lambda: a @ a, "copy": lambda: target.copy_(source)}, rounds=10, budget=5)
    product, copy = (statistics.median(times[k]) for k in ("product", "copy"))
    return {"threads": threads, "gflops": 2 * 2048**3 / product / 1e9, "gbytes": 2 * source.nbytes / copy / 1e9}


def run(
    operations: Sequence[str], threads: Sequence[int], *, rounds: int = 30, budget: float = 4.0, compiled: bool = True
) -> Iterator[Result]:
    """All cases of the given operations (none: all), one result at a time."""
    torch.manual_seed(0)
    for case in cases():
        if operations and case.operation not in operations:
            continue
        for layout in case.layouts:
            for n in threads:
                yield measure(case, layout, n, rounds=rounds, budget=budget, compiled=compiled)


def environment() -> dict[str, Any]:
    """Where the numbers come from: versions, processor, commit."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    model = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": commit or None,
        "processor": model[0].partition(":")[2].strip() if model else platform.processor(),
        "command": sys.argv,
        **info.collect(),
    }


def line(result: Result) -> str:
    """One result for a person."""
    name = f"{result.operation}  {result.problem}  {result.layout}  {result.threads} thr."
    if result.ratio is None or result.ratio_interval is None:
        return f"{name}\n    does not match the eager form: relative error {result.error:.1e}"
    times = "  ".join(
        f"{n} {t.median * 1e3:.2f} ms / {t.peak_bytes / 2**20:.0f} MiB" for n, t in result.timings.items()
    )
    low, high = result.ratio_interval
    rate = f"  {result.gflops:.0f} GFLOP/s" if result.gflops else ""
    return f"{name}\n    {times}  ratio {result.ratio:.2f} [{low:.2f}, {high:.2f}]{rate}"


def main(
    operations: Sequence[str],
    *,
    threads: Sequence[int] = (1, 2),
    rounds: int = 30,
    compiled: bool = True,
    as_json: bool = False,
    output: Path | None = None,
) -> int:
    """Measure, print, and store the raw numbers in ``output``; returns 1 if a case did not match or none ran."""
    known = sorted({c.operation for c in cases()})
    for operation in operations:
        if operation not in known:
            raise UserError(f"op: expected one of {', '.join(known)}, got {operation!r}")
    results = []
    for result in run(operations, threads, rounds=rounds, compiled=compiled):
        results.append(result)
        if not as_json:
            print(line(result), flush=True)
    report = {
        "environment": environment(),
        "roofs": [roofs(n) for n in threads],
        "results": [asdict(r) for r in results],
    }
    text = json.dumps(report, indent=1)
    if as_json:
        print(text)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(text + "\n", encoding="utf-8")
    return 0 if results and all(r.ratio is not None for r in results) else 1
