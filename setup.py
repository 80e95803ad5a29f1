"""Builds pyeqgan._C: CPU kernels three times (one object per instruction set), glue over torch's stable ABI, and, where
nvcc is found, every CUDA kernel.

Environment: PYEQGAN_NATIVE=0 builds no module; PYEQGAN_CUDA=0 leaves nvcc alone, =1 makes a missing nvcc an error;
TORCH_CUDA_ARCH_LIST ("8.0;9.0a+PTX") chooses GPU architectures; PYEQGAN_SANITIZE=1 builds for ASan and UBSan.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()
TORCH = Path(torch.__file__).parent
X86 = platform.machine() in ("x86_64", "AMD64")

# The instruction sets at::vec knows. Without the macros it takes a slow generic path silently.
AVX2 = ["-mavx2", "-mfma", "-mf16c"]
AVX512 = ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mprefer-vector-width=512", *AVX2]
# The one source that commands the matrix unit; what calls it asks whether there is one.
MATRIX_UNIT = {"matrix_unit.cpp": [*AVX512, "-mavx512bf16", "-mamx-tile", "-mamx-bf16"] if X86 else []}
CAPABILITIES = {"DEFAULT": [], "AVX2": AVX2 if X86 else [], "AVX512": AVX512 if X86 else []}

DEFAULT_ARCHS = "8.0;8.6;8.9;9.0a+PTX"
TARGET_VERSION = "0x020b000000000000"  # stable ABI of torch 2.11: the module serves every later torch


def compile_flags() -> list[str]:
    optimise = ["-O1", "-g", "-fsanitize=address,undefined"] if os.environ.get("PYEQGAN_SANITIZE") == "1" else ["-O3"]
    return [
        "-std=c++20",
        *optimise,
        "-fPIC",
        "-fvisibility=hidden",
        "-fopenmp",
        "-Wall",
        "-Wextra",
        "-Wno-unused-parameter",
        "-Wno-unknown-pragmas",
        "-Wno-uninitialized",
        "-Wno-maybe-uninitialized",
    ]


def include_flags() -> list[str]:
    paths = [TORCH / "include", TORCH / "include/torch/csrc/api/include"]
    return [f"-isystem{p}" for p in paths]


def pybind11_include() -> list[str]:
    """pip's pybind11, or else the copy among torch's own headers."""
    try:
        import pybind11
    except ImportError:
        return []
    return [f"-I{pybind11.get_include()}"]


def nvcc() -> str | None:
    """The compiler for .cu files: of CUDA_HOME, else the one on PATH."""
    if os.environ.get("PYEQGAN_CUDA") == "0":
        return None
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    candidates = [str(Path(home) / "bin/nvcc")] if home else ["nvcc", "/usr/local/cuda/bin/nvcc"]
    for candidate in candidates:
        try:
            subprocess.run([candidate, "--version"], check=True, capture_output=True)
            return candidate
        except (OSError, subprocess.CalledProcessError):
            continue
    if os.environ.get("PYEQGAN_CUDA") == "1":
        sys.exit(f"PYEQGAN_CUDA=1: no working nvcc among {', '.join(candidates)}")
    return None


def cuda_archs() -> list[str]:
    """-gencode flags for TORCH_CUDA_ARCH_LIST, as torch reads it: "8.6", "9.0a", "9.0+PTX", separated by ; or space."""
    flags = []
    for arch in os.environ.get("TORCH_CUDA_ARCH_LIST", DEFAULT_ARCHS).replace(";", " ").split():
        number, _, ptx = arch.partition("+")
        code = number.replace(".", "")
        flags.append(f"-gencode=arch=compute_{code},code=sm_{code}")
        if ptx:
            plain = code.rstrip("a")
            flags.append(f"-gencode=arch=compute_{plain},code=compute_{plain}")
    return flags


def cuda_root(compiler: str) -> Path:
    """The toolkit a (possibly wrapped) nvcc belongs to, as it says itself."""
    dryrun = subprocess.run([compiler, "--dryrun", "-x", "cu", "/dev/null"], capture_output=True, text=True).stderr
    for line in dryrun.splitlines():
        if line.startswith("#$ TOP="):
            return Path(line.removeprefix("#$ TOP=").strip()).resolve()
    sys.exit(f"{compiler} --dryrun does not tell its toolkit's folder")


def sources_digest(folder: Path) -> str:
    """A hash of the files in a folder: what was measured of kernels holds as long as they are the same."""
    total = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        total.update(path.name.encode() + path.read_bytes())
    return total.hexdigest()[:16]


class BuildNative(build_ext):
    """Compiles each source with its own flags, several at a time, and links; what has not changed is not compiled."""

    def build_extension(self, ext: Extension) -> None:
        work = Path(self.build_temp).resolve()
        work.mkdir(parents=True, exist_ok=True)
        cxx = shlex.split(os.environ.get("CXX", "g++"))
        flags = [*compile_flags(), *include_flags()]
        csrc = ROOT / "csrc"
        jobs: list[tuple[Path, Path, list[str]]] = []

        for source in sorted((csrc / "cpu").rglob("*_kernel.cpp")):
            for name, isa in CAPABILITIES.items():
                macros = [f"-DCPU_CAPABILITY={name}", f"-DCPU_CAPABILITY_{name}"]
                jobs.append((source, work / f"{source.stem}.{name}.o", [*cxx, *flags, *macros, *isa]))

        compiler = nvcc()
        archs = cuda_archs() if compiler else []
        link = []
        if compiler:
            cuda = cuda_root(compiler)
            for source in sorted((csrc / "cuda").glob("*_kernel.cu")):
                command = [compiler, "-O3", "-std=c++17", "-Xcompiler=-fPIC,-fvisibility=hidden", *archs]
                jobs.append((source, work / f"{source.stem}.cu.o", command))
            libraries = next(p for p in (cuda / "lib64", cuda / "targets/x86_64-linux/lib", cuda / "lib") if p.is_dir())
            link = [f"-L{libraries}", "-l:libcudart_static.a", "-ldl", "-lrt", "-lpthread"]

        stable = [f"-DTORCH_TARGET_VERSION={TARGET_VERSION}"]
        plain = (s for s in (csrc / "cpu").rglob("*.cpp") if not s.stem.endswith("_kernel"))
        glue = [*sorted(csrc.glob("*.cpp")), *sorted(plain)]
        if compiler:
            glue += sorted((csrc / "cuda").glob("*.cpp"))
        for source in glue:
            extra = [*stable, *MATRIX_UNIT.get(source.name, [])]
            if source.name == "module.cpp":
                extra = [
                    *pybind11_include(),
                    *(f"-I{p}" for p in self.include_dirs),
                    f'-DPYEQGAN_TORCH_VERSION="{torch.__version__}"',
                    f'-DPYEQGAN_BUILD_FLAGS="{" ".join(compile_flags())}"',
                    f'-DPYEQGAN_CUDA_SOURCES="{sources_digest(csrc / "cuda") if compiler else ""}"',
                    f'-DPYEQGAN_CUDA_ARCHS="{" ".join(a.rpartition("=")[2] for a in archs)}"',
                ]
            elif source.parent.name == "cuda":
                extra += [f"-isystem{p}" for p in (cuda / "include", cuda / "targets/x86_64-linux/include")]
                extra += ["-DUSE_CUDA"]
            jobs.append((source, work / f"{source.parent.name}.{source.stem}.o", [*cxx, *flags, *extra]))

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(lambda job: self.compile(*job), jobs))
        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        target.parent.mkdir(parents=True, exist_ok=True)
        # torch is loaded before this module; its libraries are found there, not by a path of the build machine.
        libraries = [f"-L{TORCH / 'lib'}", "-ltorch", "-ltorch_cpu", "-lc10"]
        sanitize = [f for f in compile_flags() if f.startswith("-fsanitize")]
        self.call([*cxx, "-shared", *sanitize, "-o", str(target), *(str(o) for _, o, _ in jobs), *libraries, *link])

    def compile(self, source: Path, target: Path, command: list[str]) -> None:
        """Compile one source unless its object is newer than everything it was made from, with the same command."""
        command = [*command, "-MD", "-MF", f"{target}.d", "-c", str(source), "-o", str(target)]
        record = Path(f"{target}.cmd")
        if target.exists() and record.exists() and record.read_text() == shlex.join(command) and self.fresh(target):
            return
        self.call(command)
        record.write_text(shlex.join(command))

    @staticmethod
    def fresh(target: Path) -> bool:
        dependencies = Path(f"{target}.d")
        if not dependencies.exists():
            return False
        made = target.stat().st_mtime
        files = dependencies.read_text().replace("\\\n", " ").partition(":")[2].split()
        return all(Path(f).exists() and Path(f).stat().st_mtime <= made for f in files)

    @staticmethod
    def call(command: list[str]) -> None:
        print(shlex.join(command), flush=True)
        done = subprocess.run(command, capture_output=True, text=True)
        print(done.stdout, done.stderr, sep="", end="", flush=True)
        if done.returncode:
            what = command[command.index("-c") + 1] if "-c" in command else "the module's link"
            raise SystemExit(f"{command[0]} failed on {what}")


native = os.environ.get("PYEQGAN_NATIVE") != "0"
setup(
    packages=[*find_packages(include=["pyeqgan", "pyeqgan.*"]), "pyeqgan.kernels", "pyeqgan.benchmarks"],
    package_dir={"pyeqgan": "pyeqgan", "pyeqgan.kernels": "kernels", "pyeqgan.benchmarks": "benchmarks"},
    package_data={"pyeqgan": ["py.typed", "recorded/*.json"], "pyeqgan.kernels": ["*.json"]},
    ext_modules=[Extension("pyeqgan._C", sources=["csrc/module.cpp"])] if native else [],
    cmdclass={"build_ext": BuildNative},
)
