"""The CUDA kernels on the CPU, and compilers whose results are kept in build/tests by what they were made from."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from ctypes import c_uint64
from pathlib import Path

import pytest

from .launchers import BilateralPropagation, Consistency, ContrastiveLoss, Fusion

ROOT = Path(__file__).parents[2]
EMULATION = ROOT / "tests/cuda/emulation"
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
def emulate(build: Build) -> Callable[..., ctypes.CDLL]:
    """Compile a .cu file as C++ under the emulation of CUDA's execution model, with EMULATION_SANITIZE=1 sanitized."""
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed")

    def load(source: Path, *options: str) -> ctypes.CDLL:
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
        command += options
        command += SANITIZE if os.environ.get("EMULATION_SANITIZE") == "1" else []
        path, _ = build([*command, str(EMULATION / "emulate.cpp"), "-o"], f"{source.stem}.so")
        library = ctypes.CDLL(str(path))
        library.emulation_seed.argtypes = [c_uint64]
        return library

    return load


@pytest.fixture
def device(bilateral: BilateralPropagation) -> Iterator[Callable[..., None]]:
    """Makes the emulated device another one than an H200, for one test."""

    def become(shared_bytes: int = 227 * 1024, multiprocessors: int = 132, l2_bytes: int = 50 << 20) -> None:
        bilateral.library.emulation_device(shared_bytes, multiprocessors, l2_bytes)

    yield become
    become()


@pytest.fixture(scope="session")
def bilateral(emulate: Callable[..., ctypes.CDLL]) -> BilateralPropagation:
    return BilateralPropagation(emulate(ROOT / "csrc/cuda/bilateral_propagation_kernel.cu"))


@pytest.fixture(scope="session")
def fusion(emulate: Callable[..., ctypes.CDLL]) -> Fusion:
    return Fusion(emulate(ROOT / "csrc/cuda/fusion_kernel.cu"))


@pytest.fixture(scope="session")
def consistency(emulate: Callable[..., ctypes.CDLL]) -> Consistency:
    return Consistency(emulate(ROOT / "csrc/cuda/consistency_loss_kernel.cu"))


@pytest.fixture(scope="session", params=["sm_80", "sm_90a"])
def contrastive(emulate: Callable[..., ctypes.CDLL], request: pytest.FixtureRequest) -> ContrastiveLoss:
    """On a GPU with the instructions of sm_80, and with those of sm_90a."""
    options = ["-DCUDA_EMULATION_SM90"] if request.param == "sm_90a" else []
    return ContrastiveLoss(emulate(ROOT / "csrc/cuda/contrastive_loss_kernel.cu", *options))
