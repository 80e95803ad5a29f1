"""The check of a GPU machine, as far as it goes without one."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

from pyeqgan.benchmarks import gpu_check


def python(code):
    return [sys.executable, "-c", code]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here: make gpu-check runs it")
def test_without_a_gpu_it_says_so(capsys):
    assert gpu_check.main() == 2
    assert capsys.readouterr().err == f"gpu-check: torch {torch.__version__} sees no CUDA device here\n"


def test_what_has_failed_is_run_again_and_what_has_passed_is_not(tmp_path, capsys):
    target, flag, count = tmp_path / "gpu" / "check.json", tmp_path / "flag", tmp_path / "count"
    commands = {
        "good": python(f"open({str(count)!r}, 'a').write('x'); print('fine')"),
        "bad": python(f"import os, sys; print('broken'); sys.exit(not os.path.exists({str(flag)!r}))"),
        "absent": "no such tool",
    }
    assert gpu_check.run(commands, target, {}) == 1
    assert "1 passed, 2 failed bad absent" in capsys.readouterr().out
    parts = json.loads(target.read_text())["parts"]
    assert parts["good"]["output"] == ["fine"] and parts["bad"]["status"] == 1 and parts["bad"]["output"] == ["broken"]
    assert parts["absent"] == {"status": None, "problem": "no such tool"}
    flag.touch()
    assert gpu_check.run({name: commands[name] for name in ("good", "bad")}, target, {}) == 0
    assert count.read_text() == "x" and "good: has passed before" in capsys.readouterr().out
    assert [path.name for path in target.parent.iterdir()] == ["check.json"]


def test_the_tests_it_runs_are_found_without_the_projects_configuration():
    done = subprocess.run(
        [*gpu_check.PYTEST, "--collect-only", "tests/gpu"],
        cwd=gpu_check.ROOT,
        env={**os.environ, "PYTHONPATH": "tests:."},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0 and "test_every_kernel.py" in done.stdout, done.stdout + done.stderr
