"""Every .cu file compiles for the GPU within its budget, and the glue over torch's stable ABI; neither needs a GPU."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.cpp_extension import include_paths

from .conftest import ROOT

KERNELS = sorted((ROOT / "csrc/cuda").glob("*_kernel.cu"))
# By file and kernel: instances (storage types x directions), registers a thread, static shared memory a block.
# 128 registers let two blocks of 256 threads run side by side.
BUDGET = {
    "bilateral_propagation_kernel": {
        "correlate": (6, 128, 36864),
        "propagate": (6, 128, 128),
        "finish_gate": (3, 40, 0),
    },
    "consistency_loss_kernel": {
        "sum_distances": (3, 48, 4096),
        "distance_gradients": (3, 64, 3072),
        "finish_loss": (1, 40, 2048),
    },
    # The sweeps keep scores and sums in registers: one block of 256 threads, which shared memory allows anyway.
    "contrastive_loss_kernel": {
        "group_rows": (1, 40, 0),
        "gather_rows": (3, 40, 0),
        "sum_exponentials": (3, 168, 0),
        "join_segments": (1, 40, 0),
        "sum_positives": (3, 168, 0),
        "finish_rows": (1, 40, 0),
        "measure_upstream": (1, 40, 1024),
        "prepare_terms": (1, 40, 0),
        "sum_gradients": (3, 255, 0),
        "scatter_rows": (3, 48, 0),
        "finish_temperature": (1, 40, 2048),
    },
    "fusion_kernel": {
        "local_fusion": (3, 128, 21504),
        "lifted_fusion": (3, 40, 512),
        "lifted_fusion_backward": (3, 64, 0),
        "sort_members": (1, 40, 0),
        "weight_terms": (3, 64, 512),
        "finish_weights": (3, 40, 0),
    },
}

pytestmark = pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")


def compiled(build, source: Path, arch: str) -> tuple[Path, str]:
    """Object file and resource report of a .cu file; a spill or a warning is an error."""
    command = ["nvcc", "-c", "-O3", "-std=c++17", f"-gencode=arch=compute_{arch},code=sm_{arch}"]
    command += ["-Xptxas", "-v,-warn-spills,-warn-lmem-usage,-Werror", "-Werror", "all-warnings"]
    command += ["-Xcompiler", "-fPIC,-Wall,-Wextra", str(source), "-o"]
    return build(command, f"{source.stem}.o")


def resources(report: str, kernel: str) -> list[tuple[int, ...]]:
    """Stack frame, spilled bytes, registers and static shared memory of every instance of a kernel."""
    pattern = (
        rf"entry function '\w*{len(kernel)}{kernel}[IE]\w*'.*?(\d+) bytes stack frame, (\d+) bytes spill stores"
        r".*?Used (\d+) registers(?:[^\n]*?(\d+) bytes smem)?"
    )
    entries = re.split(r"(?=ptxas info\s+: Compiling entry)", report)
    found = [re.search(pattern, entry, re.DOTALL) for entry in entries]
    return [tuple(int(number or 0) for number in match.groups()) for match in found if match]


@pytest.mark.parametrize("source", KERNELS, ids=lambda p: p.stem)
@pytest.mark.parametrize("arch", ["90a", *(pytest.param(a, marks=pytest.mark.slow) for a in ("80", "86", "89"))])
def test_kernels_stay_within_their_budget(build, source, arch):
    _, report = compiled(build, source, arch)
    assert "serialized" not in report  # products of warpgroups that wait for each other
    for kernel, (instances, registers, shared) in BUDGET[source.stem].items():
        found = resources(report, kernel)
        assert len(found) == instances, f"{kernel}: {len(found)} instances"
        for frame, spilled, used, static in found:
            assert (frame, spilled) == (0, 0), kernel
            assert used <= registers and static <= shared, f"{kernel}: {used} registers, {static} bytes shared"


@pytest.fixture(scope="module")
def glue(build) -> Path:
    """The glue and the kernels as a library, compiled against the torch at hand as setup.py does it."""
    toolkit = Path(
        next(
            shlex.split(line.partition("TOP=")[2])[0]
            for line in subprocess.run(
                ["nvcc", "--dryrun", "-x", "cu", "/dev/null"], capture_output=True, text=True
            ).stderr.splitlines()
            if "TOP=" in line
        )
    ).resolve()
    objects = [str(compiled(build, source, "90a")[0]) for source in KERNELS]
    command = [
        "g++",
        "-std=c++20",
        "-O1",
        "-shared",
        "-fPIC",
        "-Wall",
        "-Werror",
        "-DTORCH_TARGET_VERSION=0x020b000000000000",
    ]
    command += [f"-isystem{path}" for path in (*include_paths(), toolkit / "include")]
    glue = map(str, sorted((ROOT / "csrc/cuda").glob("*.cpp")))
    command += [*glue, *objects, f"-L{Path(torch.__file__).parent / 'lib'}", "-ltorch_cpu"]
    command += [f"-L{toolkit / 'lib64'}", "-l:libcudart_static.a", "-ldl", "-lrt", "-lpthread", "-o"]
    return build(command, "glue.so")[0]


def test_the_glue_uses_the_stable_abi_alone(glue):
    symbols = subprocess.run(["nm", "-CDu", str(glue)], capture_output=True, text=True, check=True).stdout
    assert "aoti_torch" in symbols
    assert not re.findall(r".*\b(?:at|c10|torch)::.*", symbols)


def test_the_glue_registers_without_a_driver(glue):
    """In a process of its own: the installed module may register the same operations."""
    code = f"""
import torch
torch.ops.load_library({str(glue)!r})
print(torch.ops.pyeqgan_cuda.bilateral_propagation.default._schema)
print(torch.ops.pyeqgan_cuda.bilateral_propagation_backward.default._schema)
print(torch.ops.pyeqgan_cuda.lifted_fusion_backward.default._schema)
print(torch.ops.pyeqgan_cuda.equalization_consistency_loss_backward.default._schema)
print(torch.ops.pyeqgan_cuda.contrastive_loss_backward.default._schema)
try:
    torch.ops.pyeqgan_cuda.bilateral_propagation(torch.zeros(1, 1, 2, 2), None, 1.5, 8)
except NotImplementedError as error:
    print("CPU tensors are refused")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "bilateral_propagation(Tensor x, Tensor? gate, float sigma, int radius)" in done.stdout
    assert "bool need_x, bool need_gate) -> (Tensor grad_x, Tensor grad_gate)" in done.stdout
    assert "bool need_weights) -> (Tensor grad_base, Tensor grad_references, Tensor grad_weights)" in done.stdout
    assert "bool[] need_equalized, bool[] need_decoded) -> Tensor[]" in done.stdout
    assert "bool need_temperature) -> (Tensor grad_queries, Tensor grad_keys, Tensor grad_temperature)" in done.stdout
    assert "CPU tensors are refused" in done.stdout
