"""Compiles the standalone driver into a folder: ``build.py FOLDER [COMPILER FLAG…]`` prints the executable's path.

Glue and kernels are the objects that setup.py makes: those of the module itself, or others with the flags added.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
TORCH = Path(torch.__file__).parent
ISAS = ("DEFAULT", "AVX2", "AVX512")
TARGET = "0x020b000000000000"


def build(folder: Path, flags: Sequence[str] = ()) -> Path:
    """The driver, made in ``folder`` with additional compiler flags."""
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    compiler = [*shlex.split(os.environ.get("CXX", "g++")), *flags]
    command, environment = [sys.executable, "setup.py", "-q", "build_ext"], dict(os.environ)
    if flags:
        objects = folder / "objects"
        command += ["--build-temp", str(objects), "--build-lib", str(folder / "lib")]
        environment |= {"CXX": shlex.join(compiler), "PYEQGAN_CUDA": "0"}
    else:
        objects = ROOT / f"build/temp.{sysconfig.get_platform()}-{sys.implementation.cache_tag}"
        command += ["--inplace"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)

    driver = folder / "driver"
    headers = [f"-isystem{p}" for p in (TORCH / "include", TORCH / "include/torch/csrc/api/include")]
    libraries = [f"-L{TORCH / 'lib'}", "-ltorch", "-ltorch_cpu", "-lc10", f"-Wl,-rpath,{TORCH / 'lib'}", "-pthread"]
    options = ["-std=c++20", "-O2", "-g", "-fvisibility=hidden", f"-DTORCH_TARGET_VERSION={TARGET}", *headers]
    inputs = [*sorted(HERE.glob("*.cpp")), *sorted(compiled(objects))]
    if subprocess.run([*compiler, *options, "-o", driver, *inputs, *libraries]).returncode:
        sys.exit("the driver does not build")
    return driver


def compiled(objects: Path) -> list[Path]:
    """The objects of all of csrc but CUDA and the Python module; by their sources, as older objects may lie about."""
    kernels = [f"{p.stem}.{isa}" for p in (ROOT / "csrc/cpu").rglob("*_kernel.cpp") for isa in ISAS]
    others = [p for p in (ROOT / "csrc").rglob("*.cpp") if not p.stem.endswith("_kernel") and p.stem != "module"]
    glue = [f"{p.parent.name}.{p.stem}" for p in others if p.parent.name != "cuda"]
    return [objects / f"{name}.o" for name in (*kernels, *glue)]


if __name__ == "__main__":
    print(build(Path(sys.argv[1]), sys.argv[2:]))
