"""Compile the Triton kernels of bilateral_propagation for sm_90 and print what each instance uses, as JSON.

A script of its own: ahead-of-time compilation needs a process without TRITON_INTERPRET.
"""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from pyeqgan.kernels import _config
from pyeqgan.kernels import bilateral_propagation as kernels

PTXAS = Path(triton.__file__).parent / "backends/nvidia/bin/ptxas"
STORED = {"x", "y", "grad_y", "grad_x", "gate", "source"}
COMPUTED = {"affinity", "slope", "inverse", "inverse_x", "inverse_y", "scratch", "gate_terms"}
EXTENTS = {"channels", "height", "width", "extent", "reach"}


def compiled(function: Any, config: triton.Config, storage: str, constants: dict[str, Any]) -> dict[str, Any]:
    """Registers, spilled bytes and shared memory of one instance; every pointer is aligned, every stride int64."""
    constants = {k: v for k, v in {**config.kwargs, **constants}.items() if k in function.arg_names}
    signature, attributes = {}, {}
    for i, name in enumerate(function.arg_names):
        if name in constants:
            signature[name] = "constexpr"
        elif name in STORED | COMPUTED:
            signature[name] = "*fp32" if name in COMPUTED else f"*{storage}"
            attributes[(i,)] = [["tt.divisibility", 16]]
        else:
            signature[name] = "fp32" if name == "sigma" else "i32" if name in EXTENTS else "i64"
    source = ASTSource(function, signature=signature, constexprs=constants, attrs=attributes)
    binary = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": config.num_warps})
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(binary.asm["ptx"])
        file.flush()
        command = [PTXAS, "-v", "--gpu-name=sm_90a", file.name, "-o", "/dev/null"]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    return {
        "kernel": function.__name__,
        "storage": storage,
        "tiles": {**config.kwargs, "num_warps": config.num_warps},
        "registers": int(re.findall(r"Used (\d+) registers", usage)[0]),
        "spilled": sum(map(int, re.findall(r"(\d+) bytes spill", usage))),
        "shared": binary.metadata.shared,
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
    print(json.dumps([compiled(*instance) for instance in instances()]))
