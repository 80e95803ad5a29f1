"""Which implementation runs: told, forced, and never silently another one."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys

import pytest
import torch

from pyeqgan import backends, doctor
from pyeqgan.functional import bilateral_propagation
from pyeqgan.ops import _library


def python(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | environment, timeout=120
    )


def test_every_public_operation_is_explained():
    from pyeqgan import functional

    explained = backends.explain()
    assert set(explained) == set(functional.__all__)
    for choices in explained.values():
        assert set(choices) == {"cpu", "cuda"}
        assert all(c.backend in (*backends.BACKENDS, "composed") and c.reason for c in choices.values())
    assert explained["bilateral_propagation"]["cpu"].backend == "native"


def test_every_operation_has_an_oracle_of_the_same_signature():
    import inspect

    from pyeqgan import functional, reference

    for name in functional.__all__:
        ours = inspect.signature(getattr(functional, name)).parameters
        oracle = inspect.signature(getattr(reference, name)).parameters
        assert [p for p in ours if p != "group"] == list(oracle), name
        assert all(ours[p].default == oracle[p].default for p in oracle), name


def test_forcing_runs_the_forced_kernel_and_is_undone(monkeypatch):
    calls = []
    oracle = _library.ORACLES["bilateral_propagation"]
    monkeypatch.setitem(_library.ORACLES, "bilateral_propagation", lambda *a: calls.append(a) or oracle(*a))
    x = torch.randn(1, 2, 3, 3)
    with backends.force("reference"):
        inside = bilateral_propagation(x)
        assert len(calls) == 1
        assert backends.explain()["bilateral_propagation"]["cpu"].backend == "reference"
        with backends.force("native", "bilateral_propagation"):
            assert backends.explain()["bilateral_propagation"]["cpu"].backend == "native"
    outside = bilateral_propagation(x)
    assert len(calls) == 1
    assert backends.explain()["bilateral_propagation"]["cpu"].backend == "native"
    torch.testing.assert_close(inside, outside)


def test_forcing_inside_forcing_native_runs_the_kernel(monkeypatch):
    calls = []
    oracle = _library.ORACLES["bilateral_propagation"]
    monkeypatch.setitem(_library.ORACLES, "bilateral_propagation", lambda *a: calls.append(a) or oracle(*a))
    with backends.force("reference"), backends.force("native", "bilateral_propagation"):
        bilateral_propagation(torch.randn(1, 2, 3, 3))
    assert not calls


def test_forcing_what_is_not_there_says_so():
    with (
        pytest.raises(ValueError, match="backend: expected one of native, cuda, triton, reference, got 'fast'"),
        backends.force("fast"),
    ):
        pass
    with (
        pytest.raises(ValueError, match=r"names: expected among .*bilateral_propagation.*, got 'conv'"),
        backends.force("reference", "conv"),
    ):
        pass


def test_a_missing_module_warns_once_and_runs_the_reference(tmp_path):
    block = (
        "import sys, warnings; sys.modules['pyeqgan._C'] = None\n"
        "with warnings.catch_warnings(record=True) as caught:\n"
        "    warnings.simplefilter('always')\n"
        "    import torch, pyeqgan.functional as F, pyeqgan.nn\n"
        "    y = F.bilateral_propagation(torch.ones(1, 1, 3, 3))\n"
        "print(sum('pyeqgan._C cannot be imported' in str(w.message) for w in caught))\n"
        "from pyeqgan import backends; print(backends.explain()['bilateral_propagation']['cpu'].backend)\n"
    )
    done = python(block, PYEQGAN_REQUIRE_NATIVE="0")
    assert done.stdout.split() == ["1", "reference"], done.stderr
    strict = python(block, PYEQGAN_REQUIRE_NATIVE="1")
    assert strict.returncode == 1
    assert "PYEQGAN_REQUIRE_NATIVE=1 forbids" in strict.stderr


@pytest.mark.parametrize("capability", ["default", "avx2", "avx512"])
def test_every_instruction_set_gives_the_same_answer(capability):
    """ATEN_CPU_CAPABILITY chooses the object, and against the matrix unit; the doctor compares each with the oracle."""
    if not torch.backends.cpu.get_cpu_capability().lower().startswith("avx512") and capability == "avx512":
        pytest.skip("this processor has no AVX-512")
    code = (
        "from pyeqgan import doctor, info; print(info.collect()['cpu']['capability']); raise SystemExit(doctor.main())"
    )
    done = python(code, ATEN_CPU_CAPABILITY=capability)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.split()[0] == capability.upper()


def test_doctor_finds_a_wrong_kernel(monkeypatch, capsys):
    assert doctor.main() == 0
    wrong = torch.library.Library("pyeqgan", "IMPL")
    try:
        good = _library.as_kernel(_library.ORACLES["equalization_consistency_loss"])
        for key in ("CPU",):
            wrong.impl("equalization_consistency_loss", lambda *a: good(*a) * 1.001, key)
        with monkeypatch.context() as patch:
            patch.setattr(doctor, "_backends", lambda name, device: ["composed"])
            capsys.readouterr()
            assert doctor.main() == 1
    finally:
        wrong._destroy()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("FAILED")]
    assert len(lines) == 1
    assert "equalization_consistency_loss" in lines[0]


def test_info_is_json():
    done = subprocess.run(
        [sys.executable, "-m", "pyeqgan.info", "--json"], capture_output=True, text=True, timeout=120, check=True
    )
    report = json.loads(done.stdout)
    version = report["packages"]["torch"]  # the metadata of a build for CUDA may leave "+cu130" out
    assert version and torch.__version__.startswith(version)
    assert report["cpu"]["capability"] in ("DEFAULT", "AVX2", "AVX512", "AMX")
    assert report["operations"]["bilateral_propagation"]["cpu"]["backend"] == "native"
    assert "-O3" in report["build"]["flags"] or "-fsanitize" in report["build"]["flags"]


def test_every_operation_is_explained_before_any_is_imported():
    code = "from pyeqgan import backends; print(sorted(backends.explain()))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert ast.literal_eval(told.strip()) == backends.operations() and "contrastive_loss" in told
