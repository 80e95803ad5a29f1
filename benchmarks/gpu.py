"""Measure the operations on this machine's GPU: ``make bench-gpu``, or ``python -m pyeqgan.benchmarks.gpu``.

Forward and backward of each case, ours (what the router chose, and each backend by itself) beside eager PyTorch and two
modes of torch.compile, on the same tensors, in turns, after a match check against float64; see `gpu_clock` for what is
timed. The raw numbers go to ``<results>/<gpu>/bench-<commit>.json`` case by case: the same command goes on where it was
ended.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyeqgan import backends
from pyeqgan.benchmarks import gpu_report, harness, machine
from pyeqgan.benchmarks.cases import Case, large
from pyeqgan.benchmarks.gpu_check import label
from pyeqgan.benchmarks.gpu_clock import GpuClock
from pyeqgan.benchmarks.harness import FORMATS, OURS
from pyeqgan.files import write_whole

# Relative errors that a dtype's products may have; float32 products may be TF32's, by torch's own flags.
TOLERANCES = {"float32": 3e-3, "bfloat16": 3e-2, "float16": 4e-3}
MODES = {"torch.compile": None, "torch.compile, max-autotune": "max-autotune-no-cudagraphs"}
BACKENDS = ("triton", "cuda")
KEY = ("operation", "variant", "problem", "layout", "dtype")  # what tells a result from others
Work = Callable[[], object]


def measure(
    case: Case,
    layout: str,
    dtype: str,
    clock: GpuClock,
    *,
    device: str = "cuda",
    rounds: int = 30,
    modes: Sequence[str] = tuple(MODES),
) -> dict[str, Any]:
    """One case, on inputs that are the same in every run; what does not match gets no time.

    Args:
        case: made with ``device`` as the default one.
        layout: of FORMATS.
        dtype: of TOLERANCES.
        clock: what measures.
        device: whose clock it is.
        rounds: in turns, at most.
        modes: of torch.compile that take part.

    Returns:
        What `gpu_report` tells: names, error, seconds of every round by contender under "device", "call" and "host",
        peak bytes, and why a contender has no time.
    """
    torch.manual_seed(0)
    with torch.device(device):  # not around the rest: it would slow every call
        inputs = [t.to(getattr(torch, dtype)).requires_grad_() for t in case.make(FORMATS[layout])]
    found: dict[str, Any] = {
        "operation": case.operation,
        "variant": case.variant,
        "problem": case.problem,
        "layout": layout,
        "dtype": dtype,
        "flops": case.flops,
        "bytes": harness.minimal_bytes(case, inputs),
        "errors": {},
        "problems": {},
    }

    def matching(name: str) -> None:
        found["errors"][name] = harness.match_error(case, inputs)
        if not found["errors"][name] < TOLERANCES[dtype]:
            raise AssertionError(f"does not match: relative error {found['errors'][name]:.1e}")

    calls: dict[str, Work] = {}
    graphs: dict[str, Work] = {}
    torch.compiler.reset()
    compiled = {name: torch.compile(case.eager, mode=MODES[name]) for name in modes if case.compiled}
    for name, function in {OURS: case.ours, "eager": case.eager, **compiled}.items():
        with _noting(found, name):
            if name == OURS:
                matching(OURS)
            work = _work(function, inputs)
            work()  # compiles
            calls[name] = work
        if name in calls:
            with _noting(found, f"{name}, captured"):
                graphs[name] = clock.captured(calls[name])
    for backend in BACKENDS:
        if backends.available(backend, case.operation):
            with _noting(found, backend), backends.force(backend, case.operation):
                matching(backend)
                graphs[backend] = clock.captured(_work(case.ours, inputs))
    for what, works, seconds in (
        ("device", graphs, clock.device_seconds),
        ("call", calls, clock.device_seconds),
        ("host", calls, clock.host_seconds),
    ):
        found[what] = harness.interleave(works, rounds=rounds, budget=5, seconds=seconds)
    found["peak"] = {name: clock.peak_bytes(work) for name, work in calls.items()}
    return found


def _work(function: Callable[..., Tensor], inputs: Sequence[Tensor]) -> Work:
    return lambda: harness.step(function, inputs)


@contextmanager
def _noting(found: dict[str, Any], name: str) -> Iterator[None]:
    """Within: what a contender breaks on is noted as its problem, and the others go on."""
    try:
        yield
    except Exception as problem:
        told = str(problem).strip().partition("\n")[0]
        found["problems"][name] = f"{type(problem).__name__}: {told}"


def main(
    arguments: Sequence[str] | None = None,
    *,
    clock: GpuClock | None = None,
    device: str = "cuda",
    problems: Callable[[], list[Case]] = large,
) -> int:
    """Measure what is not there yet, and write the page; the keywords serve to try it without a GPU.

    Returns:
        The exit status: 1 if a kernel of ours broke or did not match, 2 for wrong arguments or without a GPU.
    """
    parser = argparse.ArgumentParser(prog="python -m pyeqgan.benchmarks.gpu", description=__doc__)
    parser.add_argument("--op", nargs="*", default=[], metavar="OPERATION", help="default: all")
    parser.add_argument("--dtypes", nargs="+", choices=list(TOLERANCES), default=["bfloat16", "float32"])
    parser.add_argument("--layouts", nargs="+", choices=list(FORMATS), default=["channels_last"])
    parser.add_argument("--rounds", type=int, default=30, help="in turns, at most")
    parser.add_argument("--modes", nargs="*", choices=list(MODES), default=list(MODES), help="of torch.compile")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"), help="default: %(default)s")
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parser.parse_args(given)
    if clock is None:
        if not torch.cuda.is_available():
            print("bench-gpu: torch sees no CUDA device here", file=sys.stderr)
            return 2
        clock = GpuClock()
    environment = machine.environment(shlex.join(["python", "-m", "pyeqgan.benchmarks.gpu", *given]))
    name = label(torch.cuda.get_device_name() if device == "cuda" else device)
    target = options.results / name / f"bench-{(environment['commit'] or 'unknown').replace('-dirty', '')[:12]}.json"
    stored = json.loads(target.read_text()) if target.exists() else {"results": []}
    done = [tuple(r[field] for field in KEY) for r in stored["results"]]
    with torch.device(device):
        found = problems()
    known = sorted({case.operation for case in found})
    if unknown := set(options.op) - set(known):
        print(f"bench-gpu: op: expected among {', '.join(known)}, got {unknown.pop()!r}", file=sys.stderr)
        return 2
    stored |= {"environment": environment, "roofs": clock.roofs(), "state_before": clock.state()}
    for case in found:
        if options.op and case.operation not in options.op:
            continue
        for layout in [f for f in options.layouts if f in case.layouts] or case.layouts[:1]:
            for dtype in options.dtypes:
                if (case.operation, case.variant, case.problem, layout, dtype) in done:
                    continue
                result = measure(case, layout, dtype, clock, device=device, rounds=options.rounds, modes=options.modes)
                print(gpu_report.line(result), flush=True)
                stored["results"].append(result)
                stored["state_after"] = clock.state()
                target.parent.mkdir(parents=True, exist_ok=True)
                write_whole(target, (json.dumps(stored, indent=1) + "\n").encode())
    if not stored["results"]:
        return 1
    page = target.parent / "README.md"
    write_whole(page, ("\n".join(gpu_report.page(stored, target.name)) + "\n").encode())
    print(page)
    ours = (OURS, *BACKENDS)
    return 1 if any(name.partition(",")[0] in ours for r in stored["results"] for name in r["problems"]) else 0


if __name__ == "__main__":
    sys.exit(main())
