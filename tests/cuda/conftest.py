"""The CUDA kernels on the CPU, and compilers whose results are kept in build/tests by what they were made from."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from ctypes import c_bool, c_float, c_int, c_int64, c_uint64, c_void_p
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pyeqgan.ops._library import empty_image

ROOT = Path(__file__).parents[2]
EMULATION = ROOT / "tests/cuda/emulation"
DTYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]

Build = Callable[[list[str], str], tuple[Path, str]]


@pytest.fixture(scope="session")
def build() -> Build:
    """Run a compiler whose command ends in -o; returns the file it made and what it printed."""
    digest = hashlib.sha256()
    for source in sorted([*(ROOT / "csrc/cuda").iterdir(), *(ROOT / "csrc").glob("*.h"), *EMULATION.iterdir()]):
        digest.update(source.read_bytes())

    def run(command: list[str], name: str) -> tuple[Path, str]:
        key = digest.copy()
        key.update(repr(command).encode())
        folder = ROOT / "build/tests" / key.hexdigest()[:16]
        target, log = folder / name, folder / f"{name}.log"
        if not log.exists():
            folder.mkdir(parents=True, exist_ok=True)
            mine = folder / f"{os.getpid()}.{name}"  # another worker may be making the same file
            done = subprocess.run([*command, str(mine)], capture_output=True, text=True)
            assert done.returncode == 0, f"{' '.join(command)}\n{done.stderr}"
            os.replace(mine, target)
            mine.with_suffix(".log").write_text(done.stderr)
            os.replace(mine.with_suffix(".log"), log)
        return target, log.read_text()

    return run


@pytest.fixture(scope="session")
def emulate(build: Build) -> Callable[[Path], ctypes.CDLL]:
    """Compile a .cu file as C++ under the emulation of CUDA's execution model, with EMULATION_SANITIZE=1 sanitized."""
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed")

    def load(source: Path) -> ctypes.CDLL:
        command = [
            "g++",
            "-std=c++17",
            "-O1",
            "-g",
            "-shared",
            "-fPIC",
            "-fno-gnu-unique",
            "-Wall",
            "-Wextra",
            "-Werror",
        ]
        command += ["-Wno-unknown-pragmas", f"-I{EMULATION}", f"-I{ROOT / 'csrc/cuda'}", f'-DKERNEL_FILE="{source}"']
        command += SANITIZE if os.environ.get("EMULATION_SANITIZE") == "1" else []
        path, _ = build([*command, str(EMULATION / "emulate.cpp"), "-o"], f"{source.stem}.so")
        library = ctypes.CDLL(str(path))
        library.emulation_seed.argtypes = [c_uint64]
        return library

    return load


def _four(values: tuple[int, ...] | torch.Size) -> ctypes.Array[c_int64]:
    return (c_int64 * 4)(*values)


def _pointer(x: Tensor | None) -> c_void_p:
    return c_void_p(None if x is None else x.data_ptr())


class BilateralPropagation:
    """The launchers of bilateral_propagation on the CPU. Everything they must write starts as NaN."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library
        library.pyeqgan_bilateral_propagation_workspace.restype = c_int64
        self.result = 0

    def _workspace(self, size: torch.Size, radius: int, backward: bool) -> Tensor:
        bytes_ = self.library.pyeqgan_bilateral_propagation_workspace(_four(size), c_int64(radius), c_bool(backward))
        return torch.full((bytes_ // 4,), torch.nan)

    def forward(
        self, x: Tensor, gate: Tensor | None, sigma: float, radius: int, dtype: int | None = None
    ) -> tuple[Tensor, Tensor]:
        y = empty_image(x, 2 * x.shape[1]).fill_(torch.nan)
        affinity = torch.full((x.shape[0], 9, *x.shape[2:]), torch.nan)
        workspace = self._workspace(x.shape, radius, False)
        self.result = self.library.pyeqgan_bilateral_propagation(
            _pointer(x), _four(x.stride()), _pointer(gate), _pointer(y), _four(y.stride()), _pointer(affinity),
            _pointer(workspace), c_int(DTYPES[x.dtype] if dtype is None else dtype), _four(x.shape), c_float(sigma),
            c_int64(radius), c_void_p(None),
        )  # fmt: skip
        return y, affinity

    def backward(
        self, grad_y: Tensor, x: Tensor, gate: Tensor | None, affinity: Tensor, sigma: float, radius: int,
        need_x: bool = True, need_gate: bool = True,
    ) -> tuple[Tensor | None, Tensor | None]:  # fmt: skip
        grad_x = empty_image(x, x.shape[1]).fill_(torch.nan) if need_x else None
        grad_gate = torch.full_like(gate, torch.nan) if gate is not None and need_gate else None
        workspace = self._workspace(x.shape, radius, True)
        self.result = self.library.pyeqgan_bilateral_propagation_backward(
            _pointer(grad_y), _four(grad_y.stride()), _pointer(x), _four(x.stride()), _pointer(gate),
            _pointer(affinity), _pointer(grad_x), _four((0,) * 4 if grad_x is None else grad_x.stride()),
            _pointer(grad_gate), _pointer(workspace), c_int(DTYPES[x.dtype]), _four(x.shape), c_float(sigma),
            c_int64(radius), c_void_p(None),
        )  # fmt: skip
        return grad_x, grad_gate


@pytest.fixture
def device(bilateral: BilateralPropagation) -> Iterator[Callable[..., None]]:
    """Makes the emulated device another one than an H200, for one test."""

    def become(shared_bytes: int = 227 * 1024, multiprocessors: int = 132, l2_bytes: int = 50 << 20) -> None:
        bilateral.library.emulation_device(shared_bytes, multiprocessors, l2_bytes)

    yield become
    become()


@pytest.fixture(scope="session")
def bilateral(emulate: Callable[[Path], ctypes.CDLL]) -> BilateralPropagation:
    return BilateralPropagation(emulate(ROOT / "csrc/cuda/bilateral_propagation_kernel.cu"))
