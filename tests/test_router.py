"""Which kernel runs on a GPU by default: told by what was recorded there, without a GPU."""

from __future__ import annotations

import dataclasses
import json
from functools import partialmethod

import pytest
import torch

from pyeqgan import backends, doctor, verdicts
from pyeqgan.ops import _library
from pyeqgan.router import Router
from pyeqgan.verdicts import Gpu, Verdict

GPU = Gpu("NVIDIA Test 1", "sm90", "2.13.0", "3.6.0", "0123456789abcdef")
NAMES = ["bilateral_propagation", "local_fusion"]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(verdicts, "SHIPPED", tmp_path / "recorded")
    return tmp_path


def verdict(operation, backend, milliseconds, error=1e-6, problem=""):
    return Verdict(operation, backend, "cuda", error, problem, milliseconds)


def router(kernels=lambda backend, name: {name: (backend, name)}):
    return Router(NAMES, "", kernels)


def test_without_a_record_the_references_run_and_a_warning_names_the_doctor():
    with pytest.warns(RuntimeWarning, match=r"this NVIDIA Test 1 \(sm90\).*`pyeqgan doctor`"):
        choices = router().decide(GPU)
    assert {backend for backend, _ in choices.values()} == {"reference"}


@pytest.mark.filterwarnings("error")
def test_the_fastest_of_those_that_passed_runs():
    found = [verdict("bilateral_propagation", "reference", 9.0), verdict("bilateral_propagation", "cuda", 1.0)]
    found += [verdict("bilateral_propagation", "triton", 0.5, error=1e-2), verdict("local_fusion", "reference", 2.0)]
    found += [verdict("local_fusion", "cuda", 3.0), verdict("local_fusion", "triton", 0.1, problem="RuntimeError: no")]
    verdicts.keep(GPU, found)
    choices = router().decide(GPU)
    assert [choices[name][0] for name in NAMES] == ["cuda", "reference"]
    assert choices["bilateral_propagation"][1].endswith("(cuda 1 ms, reference 9 ms)")


def test_a_kernel_that_is_no_longer_there_is_not_chosen():
    verdicts.keep(GPU, [verdict(n, b, t) for n in NAMES for b, t in (("reference", 2.0), ("triton", 1.0))])
    assert {backend for backend, _ in router(lambda backend, name: None).decide(GPU).values()} == {"reference"}


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(Gpu)])
def test_a_record_of_another_gpu_torch_or_kernel_does_not_count(field):
    verdicts.keep(GPU, [verdict(name, "cuda", 1.0) for name in NAMES])
    assert verdicts.recorded(GPU) is not None
    assert verdicts.recorded(dataclasses.replace(GPU, **{field: "other"})) is None


def test_ours_count_for_their_architecture_and_kernels_where_there_is_none_of_the_user(cache):
    path = verdicts.keep(GPU, [verdict(name, "triton", 1.0) for name in NAMES])
    (cache / "recorded").mkdir()
    path.rename(cache / "recorded" / "sm90.json")
    other = dataclasses.replace(GPU, name="NVIDIA Test 2", torch="2.11.0")
    assert router().decide(other)["local_fusion"][0] == "triton"
    for field in ("architecture", "kernels"):
        assert verdicts.recorded(dataclasses.replace(GPU, **{field: "other"})) is None
    verdicts.keep(other, [verdict(name, "cuda", 1.0) for name in NAMES])
    assert router().decide(other)["local_fusion"][0] == "cuda"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"verdicts": [{"operation": "x"}]}', "null"])
def test_a_damaged_record_is_none(text):
    path = verdicts.keep(GPU, [])
    path.write_text(text)
    assert verdicts.recorded(GPU) is None


def test_the_decision_is_made_once_at_the_first_call(monkeypatch):
    calls = []

    def kernel(*arguments):
        calls.append(arguments)
        return "result"

    routed = Router(NAMES, "", lambda backend, name: {name: kernel, f"{name}_backward": kernel})
    verdicts.keep(GPU, [verdict(name, "cuda", 1.0) for name in NAMES])
    asked = []
    monkeypatch.setattr(Gpu, "current", lambda sources: asked.append(sources) or GPU)
    entries = [routed._entry(n) for n in ("bilateral_propagation", "bilateral_propagation_backward", "local_fusion")]
    assert asked == [] and routed.choices is None
    x = torch.zeros(1)
    assert [entry(x, 2) for entry in entries] == ["result"] * 3
    assert calls == [(x, 2)] * 3 and asked == [""]
    assert routed.choices["local_fusion"][0] == "cuda"


def test_float64_is_the_references_without_a_decision():
    def kernel(*arguments):
        raise AssertionError("no GPU kernel takes float64")

    routed = Router(list(backends._with_gpu_kernels()), "", lambda backend, name: {name: kernel})
    x, features = torch.randn(1, 2, 3, 3, dtype=torch.float64), [torch.randn(1, 2, 3, 3, dtype=torch.float64)]
    y, affinity = routed._entry("bilateral_propagation")(x, None, 1.5, 8)
    assert y.dtype == torch.float64
    grads = routed._entry("bilateral_propagation_backward")(y, x, None, affinity, 1.5, 8, True, False)
    assert grads[0].dtype == torch.float64
    assert routed._entry("equalization_consistency_loss")(features, features, [1.0], "cosine").dtype == torch.float64
    assert routed.choices is None


def test_whether_there_is_a_kernel_is_decided_too(monkeypatch):
    verdicts.keep(GPU, [verdict("bilateral_propagation", b, t) for b, t in (("reference", 2.0), ("cuda", 1.0))])
    monkeypatch.setattr(Gpu, "current", lambda sources: GPU)
    monkeypatch.setattr(backends._Native, "router", router())
    assert backends.has_kernel("bilateral_propagation", "cuda") and not backends.has_kernel("local_fusion", "cuda")
    assert backends.has_kernel("local_fusion", "cpu") and not backends.has_kernel("local_fusion", "mps")
    with backends.force("reference", "local_fusion"):
        assert not backends.has_kernel("local_fusion", "cpu")


def test_the_reference_that_is_chosen_is_the_oracle(monkeypatch):
    monkeypatch.setattr(Gpu, "current", lambda sources: GPU)
    x = torch.randn(1, 2, 3, 3)
    with pytest.warns(RuntimeWarning):
        found = router()._entry("bilateral_propagation")(x, None, 1.5, 8)
    expected = _library.ORACLES["bilateral_propagation"](x, None, 1.5, 8)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_forcing_overrides_the_router_also_where_torch_forbids_it_unless_told(monkeypatch):
    """As beside a CUDA build of torch: the router's kernel is in the slot of CUDA. 2.11 refuses another by default."""
    strict = partialmethod(torch.library.Library.impl, allow_override=False)
    monkeypatch.setattr(torch.library.Library, "impl", strict)
    routed = router() if backends._Native.router is None else None  # a CUDA build has its own in the slots
    if routed is not None:
        routed.install()
    try:
        with backends.force("reference"), backends.force("reference", *NAMES):
            assert {backends.explain()[name]["cuda"].backend for name in NAMES} == {"reference"}
    finally:
        if routed is not None:
            routed._library._destroy()


def test_the_operations_with_gpu_kernels_are_those_that_can_be_forced():
    names = backends._with_gpu_kernels()
    assert "bilateral_propagation" in names
    found = [n for n in _library.ORACLES if any(backends._gpu_kernels(b, n) for b in ("cuda", "triton"))]
    assert names == sorted(n for n in found if not n.endswith("_backward"))


def test_the_doctor_keeps_the_worst_of_several_problems():
    good, bad = verdict("contrastive_loss", "cuda", 1.0), verdict("contrastive_loss", "cuda", 3.0, error=1.0)
    for found in ([good, bad], [bad, good]):
        (kept,) = doctor._one_each([*found, dataclasses.replace(good, device="cpu")])
        assert not kept.passed
    slower = dataclasses.replace(good, milliseconds=2.0)
    assert [v.milliseconds for v in doctor._one_each([good, slower])] == [2.0]


def test_a_record_says_when_it_was_made():
    record = json.loads(verdicts.keep(GPU, []).read_text())
    assert record["name"] == "NVIDIA Test 1" and record["date"].endswith("Z")
