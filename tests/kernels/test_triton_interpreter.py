"""Triton's interpreter must be chosen before Triton is imported: its tests run in processes of their own."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
@pytest.mark.parametrize("tests", sorted(HERE.glob("interpreted_*.py")), ids=lambda p: p.stem)
def test_interpreted_kernels(tests):
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONWARNINGS": ""}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:xdist", "-p", "no:cacheprovider", str(tests)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=HERE.parents[1], timeout=280)
    assert done.returncode == 0, f"{done.stdout[-6000:]}\n{done.stderr[-2000:]}"
