"""pytest-benchmark over every case: ``make bench``, ``pytest benchmarks --benchmark-only -k local_fusion``."""

from __future__ import annotations

import pytest
import torch

from pyeqgan.benchmarks import harness
from pyeqgan.benchmarks.cases import cases

PARAMETERS = [
    pytest.param(case, layout, contender, id=f"{case.operation}-{case.problem}-{layout}-{contender}")
    for case in cases()
    for layout in case.layouts
    for contender in ("pyeqgan", "eager", "torch.compile")
]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("case", "layout", "contender"), PARAMETERS)
def test_forward_and_backward(benchmark, case, layout, contender, threads):
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    benchmark.group = f"{case.operation}: {case.problem}, {layout}, {threads} threads"
    inputs = [t.requires_grad_() for t in case.make(harness.FORMATS[layout])]
    assert harness.match_error(case, inputs) < 1e-3
    function = {"pyeqgan": case.ours, "eager": case.eager}.get(contender) or torch.compile(case.eager)
    benchmark.pedantic(harness.step, args=(function, inputs), rounds=10, warmup_rounds=2)
