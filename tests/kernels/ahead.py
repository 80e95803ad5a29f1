"""Compile a Triton kernel for sm_90 without a GPU, and read off what it uses.

For scripts of their own: ahead-of-time compilation needs a process without TRITON_INTERPRET.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

BINARIES = Path(triton.__file__).parent / "backends/nvidia/bin"


def compiled(
    function: Any, config: triton.Config, storage: str, types: dict[str, str], constants: dict[str, Any]
) -> dict[str, Any]:
    """Registers, spilled bytes, shared memory and tensor core instructions of one instance.

    Args:
        function: the kernel, without its autotuner.
        config: its tile sizes, warps and stages.
        storage: the dtype of the arguments of type "*", which others may not depend on.
        types: of the arguments that are no constants; i64 where none is given. Pointers are aligned; a number of a
            type such as "i32:16" is a multiple of 16.
        constants: the others.
    """
    constants = {k: v for k, v in {**config.kwargs, **constants}.items() if k in function.arg_names}
    signature, attributes = {}, {}
    for i, name in enumerate(function.arg_names):
        kind = "constexpr" if name in constants else types.get(name, "i64")
        signature[name] = f"*{storage}" if kind == "*" else kind.removesuffix(":16")
        if kind.startswith("*") or kind.endswith(":16"):
            attributes[(i,)] = [["tt.divisibility", 16]]
    source = ASTSource(function, signature=signature, constexprs=constants, attrs=attributes)
    options = {"num_warps": config.num_warps, "num_stages": config.num_stages}
    binary = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    with tempfile.TemporaryDirectory() as folder:
        ptx, cubin = Path(folder, "kernel.ptx"), Path(folder, "kernel.cubin")
        ptx.write_text(binary.asm["ptx"], encoding="utf-8")
        usage = _run("ptxas", "-v", "--gpu-name=sm_90a", ptx, "-o", cubin).stderr
        instructions = _run("nvdisasm", cubin).stdout
    return {
        "kernel": function.__name__,
        "storage": storage,
        "constants": {k: v for k, v in constants.items() if v is not None},
        "tiles": config.all_kwargs(),
        "registers": int(re.findall(r"Used (\d+) registers", usage)[0]),
        "spilled": sum(map(int, re.findall(r"(\d+) bytes spill", usage))),
        "shared": binary.metadata.shared,
        "wgmma": len(re.findall(r"\bHGMMA\b", instructions)),
        "mma": len(re.findall(r"\bHMMA\b", instructions)),
    }


def _run(tool: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([BINARIES / tool, *arguments], capture_output=True, text=True, check=True)
