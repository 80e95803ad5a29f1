"""pytest-benchmark over every case: ``make bench-pytest ARGS='-k local_fusion --benchmark-autosave'``.

It times one contender after the other: good for watching one's own change. Ratios to quote come from ``make bench``.
"""

from __future__ import annotations

import pytest
import torch

from pyeqgan.benchmarks import harness
from pyeqgan.benchmarks.cases import cases

PARAMETERS = [
    pytest.param(case, layout, contender, id="-".join((case.operation, case.variant, case.problem, layout, contender)))
    for case in cases()
    for layout in case.layouts
    for contender in ("pyeqgan", "eager", "torch.compile")
]


@pytest.fixture(params=[1, 2])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize(("case", "layout", "contender"), PARAMETERS)
def test_forward_and_backward(benchmark, case, layout, contender, threads):
    torch.manual_seed(0)
    torch.compiler.reset()
    benchmark.group = f"{case.operation} {case.variant}: {case.problem}, {layout}, {threads} threads"
    inputs = [t.requires_grad_() for t in case.make(harness.FORMATS[layout])]
    assert harness.match_error(case, inputs) < harness.TOLERANCE
    function = {"pyeqgan": case.ours, "eager": case.eager}.get(contender) or torch.compile(case.eager)
    benchmark.pedantic(harness.step, args=(function, inputs), rounds=10, warmup_rounds=2)
