"""Compile the Triton kernels of bilateral_propagation for sm_90 and print what each instance uses, as JSON.

A script of its own: ahead-of-time compilation needs a process without TRITON_INTERPRET.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import triton
from ahead import compiled

from pyeqgan.kernels import _config
from pyeqgan.kernels import bilateral_propagation as kernels

TYPES = {
    **dict.fromkeys(("x", "y", "grad_y", "grad_x", "gate", "source"), "*"),
    **dict.fromkeys(("affinity", "slope", "inverse", "inverse_x", "inverse_y", "scratch", "gate_terms"), "*fp32"),
    **dict.fromkeys(("channels", "height", "width", "extent", "reach"), "i32"),
    "sigma": "fp32",
}


def instances() -> Iterator[tuple[Any, triton.Config, str, dict[str, Any]]]:
    """What forward and backward launch: float32 in all tile sizes, the other types in the default ones."""
    forward = dict.fromkeys(("grad_y", "slope")) | dict.fromkeys(("grad_b", "grad_c", "grad_h", "grad_w"), 0)
    launches = [
        ("bilateral_correlate", kernels.correlate, forward),
        ("bilateral_correlate", kernels.correlate, {}),
        ("bilateral_rows", kernels.filter_rows, {"TRANSPOSED": False}),
        ("bilateral_rows", kernels.filter_rows, {"TRANSPOSED": True, "gate": None}),
        ("bilateral_forward", kernels.propagate_forward, {}),
        ("bilateral_backward", kernels.propagate_backward, {}),
    ]
    for storage in ("fp32", "bf16", "fp16"):
        for name, kernel, constants in launches:
            for config in _config.configs(name, "sm90", autotune=storage == "fp32"):
                yield kernel.fn, config, storage, constants
    yield kernels.inverse_sums, triton.Config({"BLOCK": 128}, num_warps=4), "fp32", {}


if __name__ == "__main__":
    report = [compiled(kernel, config, storage, TYPES, c) for kernel, config, storage, c in instances()]
    print(json.dumps(report))
