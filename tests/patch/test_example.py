"""The example runs as a user would run it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "accelerate_model.py"


def test_the_example_swaps_and_measures():
    command = [sys.executable, str(EXAMPLE), "--channels", "8", "--size", "4", "--rounds", "2"]
    told = subprocess.run(command, check=True, capture_output=True, text=True, timeout=240).stdout
    assert "swapped: 2" in told
    assert "verified: outputs and gradients differ by at most" in told
    assert "a step takes" in told
