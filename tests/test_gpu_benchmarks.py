"""The benchmarks for a GPU, on a stand-in for its clock: the CPU, where kernels are the oracles or the native ones."""

from __future__ import annotations

import json
import time

import pytest
import torch

from pyeqgan import functional
from pyeqgan.benchmarks import cases, gpu, gpu_report
from pyeqgan.benchmarks.gpu_clock import GpuClock


class Clock(GpuClock):
    """Wall time; what is "captured" is the work itself."""

    def __init__(self):
        self.captures = 0

    def captured(self, work):
        self.captures += 1
        work()
        return work

    def device_seconds(self, work):
        begin = time.perf_counter()
        work()
        return time.perf_counter() - begin

    host_seconds = device_seconds

    def peak_bytes(self, work):
        work()
        return 2**20

    def roofs(self):
        return {"bfloat16": 4e12, "float32": 1e12, "copy": 1e11}

    def state(self):
        return {"clocks.sm": "1 MHz"}


@pytest.fixture(autouse=True)
def _backends(monkeypatch):
    monkeypatch.setattr(gpu, "BACKENDS", ("reference",))  # Triton's and CUDA's want their device


def tiny():
    wanted = ("bilateral_propagation", "contrastive_loss")
    return [c for c in cases.cases(tiny=True) if c.operation in wanted and c.variant != "separate keys"]


def run(results, clock, *arguments):
    given = ["--results", str(results), "--rounds", "2", "--modes", *arguments]
    return gpu.main(given, clock=clock, device="cpu", problems=tiny)


def test_what_is_measured_is_kept_told_and_not_measured_again(tmp_path, capsys):
    clock = Clock()
    assert run(tmp_path, clock, "--op", "bilateral_propagation") == 0
    (file,) = (tmp_path / "cpu").glob("bench-*.json")
    first = json.loads(file.read_text())
    assert [(r["operation"], r["dtype"]) for r in first["results"]] == [
        ("bilateral_propagation", "bfloat16"),
        ("bilateral_propagation", "float32"),
    ]
    for result in first["results"]:
        assert result["layout"] == "channels_last" and not result["problems"]
        assert 0 < result["errors"]["pyeqgan"] < gpu.TOLERANCES[result["dtype"]]
        assert {len(s) for what in ("device", "call", "host") for s in result[what].values()} == {2}
        assert set(result["peak"]) == {"pyeqgan", "eager"} == set(result["device"]) - {"reference"}
    captures = clock.captures
    assert run(tmp_path, clock) == 0  # goes on with the other operation alone
    second = json.loads(file.read_text())
    assert second["results"][:2] == first["results"] and len(second["results"]) == 4
    assert clock.captures == captures + 2 * 3
    page = (tmp_path / "cpu" / "README.md").read_text()
    assert page.count("| contrastive_loss, self, ") == 2 and "4 TFLOP/s in a bfloat16 product" in page
    assert "What broke" not in page and capsys.readouterr().out.count("ratio") == 4


def test_the_ratio_is_to_the_best_rival_and_on_the_device():
    result = {"device": {"pyeqgan": [1.0, 1.0], "triton": [0.1, 0.1], "eager": [4.0, 4.0], "torch.compile": [2.0, 2.0]}}
    assert gpu_report.ratio(result) == (0.5, 0.5, 0.5)
    assert gpu_report.ratio({"device": {"eager": [1.0]}}) is None and gpu_report.ratio({}) is None


def test_a_kernel_that_is_wrong_or_breaks_gets_no_time_and_fails_the_run(tmp_path, monkeypatch):
    right = functional.bilateral_propagation
    case = cases.bilateral_propagation(1, 3, 5)
    for ours, why in ((lambda *t: 1.1 * right(*t), "does not match"), (lambda *t: 1 / 0, "ZeroDivisionError")):
        broken = case.__class__(**{**vars(case), "ours": ours})
        monkeypatch.setattr(gpu.harness, "minimal_bytes", lambda case, inputs: 1.0)
        results = tmp_path / why
        status = gpu.main(
            ["--results", str(results), "--rounds", "2", "--modes"],
            clock=Clock(),
            device="cpu",
            problems=lambda broken=broken: [broken],
        )
        assert status == 1
        told = (results / "cpu" / "README.md").read_text()
        assert why in told and "| – |" in told
        (stored,) = (results / "cpu").glob("*.json")
        for result in json.loads(stored.read_text())["results"]:
            assert set(result["device"]) == {"eager"} and list(result["problems"]) == ["pyeqgan", "reference"]


def test_wrong_requests_are_told(tmp_path, capsys):
    assert run(tmp_path, Clock(), "--op", "nonsense") == 2
    assert "op: expected among bilateral_propagation, contrastive_loss, got 'nonsense'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here: make bench-gpu measures on it")
def test_without_a_gpu_it_says_so(capsys):
    assert gpu.main([]) == 2
    assert capsys.readouterr().err == "bench-gpu: torch sees no CUDA device here\n"


def test_the_large_cases_have_every_operation():
    known = {c.operation for c in cases.cases(tiny=True)}
    assert {c.operation for c in cases.large()} == known
