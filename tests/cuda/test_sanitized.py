"""The emulated kernels again, under AddressSanitizer and UndefinedBehaviorSanitizer, in a process of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")
@pytest.mark.parametrize(
    ("files", "selection"),
    [
        ("emulation", ""),
        ("bilateral_propagation_emulated", "(pieces and 101376) or asked or (passes and sliced)"),
        ("fusion_emulated", "asked or first_matches or (131 and bfloat16)"),
        ("consistency_loss_emulated", "asked or tiny"),
        ("contrastive_loss_emulated", "asked or (truth and 37 and bfloat16)"),
        pytest.param("*_emulated", "not asked", marks=pytest.mark.slow),
    ],
)
def test_emulated_kernels_under_sanitizers(files, selection):
    names = ("libasan.so", "libubsan.so", "libstdc++.so")
    found = [
        subprocess.run(["g++", f"-print-file-name={n}"], capture_output=True, text=True).stdout.strip() for n in names
    ]
    if not all(os.path.isabs(f) for f in found):
        pytest.skip(f"g++ has no {' or '.join(names)}")
    environment = {
        **os.environ,
        "EMULATION_SANITIZE": "1",
        "LD_PRELOAD": " ".join(found),
        "ASAN_OPTIONS": "detect_leaks=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }
    tests = sorted(HERE.glob(f"test_{files}.py"))
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:xdist", "-p", "no:cacheprovider", "-k", selection]
    done = subprocess.run(
        [*command, *map(str, tests)], env=environment, capture_output=True, text=True, cwd=HERE.parents[1]
    )
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
