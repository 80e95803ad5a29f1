"""Every Triton kernel compiles for sm_90 within its budget, with tensor cores where they should be: no GPU needed."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SHARED_LIMIT = 232448  # bytes a block may use on sm_90
# Registers a thread, with the Triton they were counted with; another one may allocate otherwise.
COUNTED_WITH = "3.6."
REGISTERS = {
    "activated_conv2d": {"convolve": 128, "input_gradient": 224, "weight_gradient": 232},
    "bilateral_propagation": {
        "correlate": 224,
        "filter_rows": 96,
        "propagate_forward": 160,
        "propagate_backward": 168,
        "inverse_sums": 40,
    },
    "contrastive_loss": {
        "gather": 80,
        "scatter": 64,
        "sum_exponentials": 224,
        "sum_positives": 176,
        "sum_gradients": 255,
    },
    "equalization_consistency_loss": {"sum_distances": 64, "distance_gradients": 96},
    "equalization_fusion": {"fuse": 160, "propagate_and_mix": 248},
    "fusion": {"match": 255, "blend": 96, "blend_backward": 80, "reference_gradient": 128},
    "layout_conv2d": {"sum_rows": 104, "sum_by_class": 224},
    "modulated_norm": {"moments": 64, "modulate": 136, "modulate_backward": 176, "join_moments": 48},
    "similarity_loss": {"sum_surprisals": 168, "sum_gradients": 208},
    "skip_decoder_block": {
        "convolve": 168,
        "input_gradient": 224,
        "weight_gradient": 200,
        "normalize": 64,
        "sum_gradients": 64,
        "normalize_backward": 80,
    },
}


@pytest.fixture(scope="module", params=sorted(REGISTERS))
def report(request) -> tuple[str, list[dict]]:
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed")
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(HERE.parents[1] / "build/tests/triton")
    command = [sys.executable, str(HERE / f"compile_{request.param}.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-4000:]
    return request.param, json.loads(done.stdout)


def test_kernels_stay_within_their_budget(report):
    operation, entries = report
    budget = REGISTERS[operation]
    assert {entry["kernel"] for entry in entries} == set(budget)
    assert {entry["storage"] for entry in entries} == {"fp32", "bf16", "fp16"}
    counted = importlib.metadata.version("triton").startswith(COUNTED_WITH)
    for entry in entries:
        assert entry["spilled"] == 0, entry
        assert entry["registers"] <= (budget[entry["kernel"]] if counted else 255), entry
        assert entry["shared"] <= SHARED_LIMIT, entry


def test_products_go_by_tensor_cores_but_those_of_float32(report):
    """Kernels with a PRECISION multiply matrices: by wgmma, unless IEEE arithmetic of float32 is asked for."""
    for entry in report[1]:
        precision = entry["constants"].get("PRECISION")
        by_tensor_cores = precision is not None and (entry["storage"] != "fp32" or precision == "tf32")
        assert (entry["wgmma"] > 0) == by_tensor_cores, entry
        assert entry["mma"] == 0, entry


def test_every_script_has_a_budget():
    assert {p.stem.removeprefix("compile_") for p in HERE.glob("compile_*.py")} == set(REGISTERS)
