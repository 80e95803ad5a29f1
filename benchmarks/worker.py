"""One side of a comparison: prepares and runs cases as it is told, a JSON object a line in and out."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

import pyeqgan
from pyeqgan import backends
from pyeqgan.benchmarks import harness
from pyeqgan.benchmarks.cases import Case, cases


def serve(threads: int, stage: str, tiny: bool) -> None:
    """Answer requests until there are none.

    {"case": i, "layout": l} → {"error": relative error against the eager form in float64}; {"run": n} → {"seconds": s}
    of one of n passes: of the processor where one thread runs, of the clock where several do. Whatever fails answers
    {"problem": text}.
    """
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # nothing that prints may get in between
    torch.set_num_threads(threads)
    clock = time.process_time if threads == 1 else time.perf_counter
    run: Callable[[], object] = lambda: None  # noqa: E731
    known = cases(tiny=tiny)

    def reply(**answer: Any) -> None:
        print(json.dumps(answer), file=replies, flush=True)

    reply(package=os.path.dirname(pyeqgan.__file__), native=backends.native_module() is not None)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if "case" in request:
                run, error = prepare(known[request["case"]], request["layout"], stage)
                reply(error=error)
            else:
                begin = clock()
                for _ in range(request["run"]):
                    run()
                reply(seconds=(clock() - begin) / request["run"])
        except Exception as problem:
            reply(problem=f"{type(problem).__name__}: {problem}")


def prepare(case: Case, layout: str, stage: str) -> tuple[Callable[[], object], float]:
    """A case on the same inputs in every process: what to run, warm, and how far it is from the eager form."""
    torch.manual_seed(0)
    inputs: Sequence[torch.Tensor] = [t.requires_grad_() for t in case.make(harness.FORMATS[layout])]
    step = harness.STAGES[stage]
    error = harness.match_error(case, inputs, stage)
    step(case.ours, inputs)
    return lambda: step(case.ours, inputs), error


if __name__ == "__main__":
    serve(int(sys.argv[1]), sys.argv[2], sys.argv[3] == "tiny")
