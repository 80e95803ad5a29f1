"""Measure the operations beside eager PyTorch and torch.compile, in one process, interleaved, after a match check."""

from __future__ import annotations

import json
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyeqgan.benchmarks import machine
from pyeqgan.benchmarks.cases import Case, cases, scaling
from pyeqgan.errors import UserError

FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
TOLERANCE = 1e-3
OURS = "pyeqgan"


@dataclass(frozen=True)
class Timing:
    """One contender: the seconds of every round, and its peak memory above the inputs (None where it is unknown)."""

    median: float
    lower_quartile: float
    upper_quartile: float
    peak_bytes: int | None
    seconds: list[float]


@dataclass(frozen=True)
class Result:
    """One case at one number of threads: contenders, and ours against the best of the others.

    ``error`` is the relative error of ours against the eager form in float64; above ``TOLERANCE`` nothing is timed.
    ``ratio_interval`` is a 95 % bootstrap interval. ``flops`` are the case's; ``bytes`` those that must be moved at
    least, each input, output and gradient once per use. Both are 0 for stages other than "forward+backward".
    """

    operation: str
    variant: str
    problem: str
    layout: str
    threads: int
    stage: str
    timings: dict[str, Timing]
    error: float
    ratio: float | None
    ratio_interval: tuple[float, float] | None
    flops: float
    bytes: float


def forward(function: Callable[..., Tensor], inputs: Sequence[Tensor]) -> list[Tensor]:
    """The output alone, with no graph."""
    with torch.no_grad():
        return [function(*inputs)]


def step(function: Callable[..., Tensor], inputs: Sequence[Tensor]) -> list[Tensor]:
    """Forward and backward: the output, and all gradients of half its squared norm."""
    y = function(*inputs)
    return [y.detach(), *torch.autograd.grad(y, inputs, y.detach())]


def penalty(function: Callable[..., Tensor], inputs: Sequence[Tensor]) -> list[Tensor]:
    """Double backward: the squared norm of the output's gradients, and all of its gradients."""
    y = function(*inputs)
    norm = sum(g.square().sum() for g in torch.autograd.grad(y, inputs, y.detach(), create_graph=True))
    assert isinstance(norm, Tensor)
    return [norm.detach(), *torch.autograd.grad(norm, inputs, materialize_grads=True)]


STAGES = {"forward": forward, "forward+backward": step, "penalty": penalty}


def match_error(case: Case, inputs: Sequence[Tensor], stage: str = "forward+backward") -> float:
    """The largest relative error of ours against the eager form in float64.

    A gradient that is zero by nature (of a bias before a norm) is measured against a thousandth of the largest one.
    """
    run = STAGES[stage]
    ours = run(case.ours, inputs)
    truth = run(case.eager, [t.detach().double().requires_grad_() for t in inputs])
    floor = 1e-3 * max(float(t.norm()) for t in truth)
    return max(float((a.double() - t).norm() / t.norm().clamp_min(floor)) for a, t in zip(ours, truth, strict=True))


def timed_by(clock: Callable[[], float]) -> Callable[[Callable[[], object]], float]:
    """What runs something and tells how long it took by a clock, in seconds."""

    def seconds(run: Callable[[], object]) -> float:
        begin = clock()
        run()
        return clock() - begin

    return seconds


def interleave(
    contenders: dict[str, Callable[[], object]],
    *,
    rounds: int,
    budget: float,
    seconds: Callable[[Callable[[], object]], float] | None = None,
) -> dict[str, list[float]]:
    """Time A B C A B C …: all ``rounds``, or as many, but 5 at least, as fit into ``budget`` seconds.

    ``seconds`` runs a contender and tells how long it took; by the wall's clock if None.
    """
    seconds = seconds or timed_by(time.perf_counter)
    for run in contenders.values():
        run()
        run()
    times: dict[str, list[float]] = {name: [] for name in contenders}
    start = time.perf_counter()
    for done in range(rounds):
        if done >= 5 and time.perf_counter() - start > budget:
            break
        for name, run in contenders.items():
            times[name].append(seconds(run))
    return times


def bootstrap_ratio(ours: Sequence[float], other: Sequence[float], *, draws: int = 2000) -> tuple[float, float]:
    """A 95 % interval of the ratio of medians; rounds are resampled together, as they were measured."""
    draw = random.Random(0)
    ratios = []
    for _ in range(draws):
        index = [draw.randrange(len(ours)) for _ in ours]
        ratios.append(statistics.median(ours[i] for i in index) / statistics.median(other[i] for i in index))
    ratios.sort()
    return ratios[draws // 40], ratios[-draws // 40 - 1]


def measure(
    case: Case,
    layout: str,
    threads: int,
    *,
    stage: str = "forward+backward",
    rounds: int = 30,
    budget: float = 4.0,
    compiled: bool = True,
) -> Result:
    """One case, on inputs that are the same in every run; one that does not match gets no time.

    torch.compile cannot differentiate twice: it takes no part in the stage "penalty".
    """
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    inputs = [t.requires_grad_() for t in case.make(FORMATS[layout])]
    run = STAGES[stage]
    error = match_error(case, inputs, stage)
    label = (case.operation, case.variant, case.problem, layout, threads, stage)
    flops, moved = (case.flops, minimal_bytes(case, inputs)) if stage == "forward+backward" else (0.0, 0.0)
    if not error < TOLERANCE:
        return Result(*label, {}, error, None, None, flops, moved)
    contenders: dict[str, Callable[[], object]] = {
        OURS: lambda: run(case.ours, inputs),
        "eager": lambda: run(case.eager, inputs),
    }
    if compiled and case.compiled and stage != "penalty":
        torch.compiler.reset()  # what is compiled for one number of threads must not serve another
        program = torch.compile(case.eager)
        contenders["torch.compile"] = lambda: run(program, inputs)
    times = interleave(contenders, rounds=rounds, budget=budget)
    timings = {name: timing(seconds, machine.peak_bytes(contenders[name])) for name, seconds in times.items()}
    best = min((n for n in timings if n != OURS), key=lambda n: timings[n].median)
    ratio = timings[OURS].median / timings[best].median
    return Result(*label, timings, error, ratio, bootstrap_ratio(times[OURS], times[best]), flops, moved)


def timing(seconds: list[float], peak: int | None) -> Timing:
    """Median and quartiles of one contender's rounds."""
    lower, median, upper = statistics.quantiles(seconds, n=4, method="inclusive")
    return Timing(median, lower, upper, peak, seconds)


def minimal_bytes(case: Case, inputs: Sequence[Tensor]) -> float:
    """What both passes move at least: the inputs twice, their gradients, y and its gradient once."""
    with torch.no_grad():
        y = case.ours(*inputs)
    return float(3 * sum(t.nbytes for t in inputs) + 2 * y.nbytes)


def roofs(threads: int) -> dict[str, float]:
    """What this machine does now: a large float32 product in GFLOP/s and a copy beyond the caches in GB/s."""
    torch.set_num_threads(threads)
    a = torch.randn(2048, 2048)
    source = torch.randn(64 * 2**20)
    target = torch.empty_like(source)
    times = interleave({"product": lambda: a @ a, "copy": lambda: target.copy_(source)}, rounds=10, budget=5)
    product, copy = (statistics.median(times[k]) for k in ("product", "copy"))
    return {"threads": threads, "gflops": 2 * 2048**3 / product / 1e9, "gbytes": 2 * source.nbytes / copy / 1e9}


def select(operations: Sequence[str], *, tiny: bool = False) -> list[Case]:
    """The cases of the given operations (none: all)."""
    found = cases(tiny=tiny)
    known = sorted({c.operation for c in found})
    for operation in operations:
        if operation not in known:
            raise UserError(f"bench: op: expected one of {', '.join(known)}, got {operation!r}")
    return [c for c in found if not operations or c.operation in operations]


def line(result: Result) -> str:
    """One result for a person."""
    r = result
    name = "  ".join(filter(None, (r.operation, r.variant, r.problem, r.layout, f"{r.threads} thr.", r.stage)))
    if result.ratio is None or result.ratio_interval is None:
        return f"{name}\n    does not match the eager form: relative error {result.error:.1e}"
    times = "  ".join(f"{n} {t.median * 1e3:.2f} ms{_mebibytes(t.peak_bytes)}" for n, t in result.timings.items())
    low, high = result.ratio_interval
    rate = f"  {result.flops / result.timings[OURS].median / 1e9:.0f} GFLOP/s" if result.flops else ""
    return f"{name}\n    {times}  ratio {result.ratio:.2f} [{low:.2f}, {high:.2f}]{rate}"


def _mebibytes(size: int | None) -> str:
    return "" if size is None else f" / {size / 2**20:.0f} MiB"


def main(
    operations: Sequence[str],
    *,
    threads: Sequence[int] = (1, 2),
    rounds: int = 30,
    compiled: bool = True,
    stages: Sequence[str] = ("forward+backward",),
    scaled: bool = False,
    steps: bool = False,
    tiny: bool = False,
    as_json: bool = False,
    output: Path | None = None,
    command: str | None = None,
) -> int:
    """Measure, print, and store the raw numbers in the new file ``output``, which grows with every case.

    Args:
        operations: to measure; none means all.
        threads: every case is measured with each of these numbers of threads.
        rounds: interleaved rounds of a case, at most.
        compiled: whether torch.compile takes part.
        stages: of STAGES.
        scaled: measure how the contrastive loss grows, too, with the most threads.
        steps: measure whole training steps, too, with the most threads.
        tiny: take the tiny cases.
        as_json: print JSON instead of lines.
        output: file for the raw numbers; it must not exist.
        command: what to note as the command that repeats the run; that of the process if None.

    Returns:
        The exit status: 1 if a case did not match or none ran, else 0.

    Raises:
        UserError: an unknown operation or stage, fewer than 2 rounds, or ``output`` exists.
    """
    chosen = select(operations, tiny=tiny)
    if rounds < 2:
        raise UserError(f"bench: rounds: expected at least 2, which have a spread, got {rounds}")
    for stage in stages:
        if stage not in STAGES:
            raise UserError(f"bench: stages: expected among {', '.join(STAGES)}, got {stage!r}")
    if output is not None and output.exists():
        raise UserError(f"bench: output: expected a new file, {output} exists")
    report: dict[str, Any] = {"environment": machine.environment(command), "roofs": [roofs(n) for n in threads]}
    results: dict[str, list[Result]] = {"results": [], "scaling": [], "steps": []}

    def keep(kind: str, result: Result) -> None:
        results[kind].append(result)
        if not as_json:
            print(line(result), flush=True)
        report[kind] = [asdict(r) for r in results[kind]]
        if output is not None:
            output.parent.mkdir(parents=True, exist_ok=True)
            output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")

    for case, layout, n, stage in ((c, f, n, s) for c in chosen for f in c.layouts for n in threads for s in stages):
        if stage == "penalty" and not case.twice:
            continue
        keep("results", measure(case, layout, n, stage=stage, rounds=rounds, compiled=compiled))
    for case in scaling(tiny=tiny) if scaled else ():
        keep("scaling", measure(case, "contiguous", max(threads), rounds=min(rounds, 3), compiled=compiled))
    if steps:
        from pyeqgan.benchmarks import step  # the models, too, and what they import

        for problem in step.problems(tiny=tiny):
            for result in step.measure(problem, max(threads), rounds=min(rounds, 9), compiled=compiled):
                keep("steps", result)
    if as_json:
        print(json.dumps(report, indent=1))
    ran = results["results"] or results["steps"]
    return 0 if ran and all(r.ratio is not None for kind in results.values() for r in kind) else 1
