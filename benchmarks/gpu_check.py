"""Everything that wants a GPU, in one command: ``make gpu-check``, or ``python benchmarks/gpu_check.py``.

Installs the checkout, compiled for the GPU at hand, tells what is installed, runs the doctor (which keeps its verdicts
for later processes), the tests of `tests/gpu` (every kernel; training steps as CUDA graphs, where Lightning Fabric and
what else training needs is installed), the benchmarks (`gpu`), and the doctor again under compute-sanitizer.
Needs torch with CUDA, pip, setuptools, pytest and nvcc, and no network. What became of a part is kept as soon as it has
ended, in ``benchmarks/results/<gpu>/check-….json``: an interrupted check goes on with the parts that have not passed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
PIP = [sys.executable, "-m", "pip", "install", "--quiet"]
DOCTOR = [sys.executable, "-c", "from pyeqgan import doctor; raise SystemExit(doctor.main())"]
# Without the project's configuration, which asks for plugins that a GPU machine may lack.
PYTEST = [sys.executable, "-m", "pytest", "-c", os.devnull, "--rootdir", ".", "--import-mode=importlib", "-q", "-rs"]
KEPT_LINES = 400


def parts() -> dict[str, list[str] | str]:
    """The command of each part, or why it cannot run."""
    sanitizer = shutil.which("compute-sanitizer")
    return {
        "install": [*PIP, "--no-build-isolation", "--no-deps", "--editable", "."],
        "info": [sys.executable, "-m", "pyeqgan.info", "--json"],
        "doctor": DOCTOR,
        "tests": [*PYTEST, "tests/gpu"],
        "bench": [sys.executable, "-m", "pyeqgan.benchmarks.gpu"],
        "sanitizer": [sanitizer, "--error-exitcode", "9", *DOCTOR] if sanitizer else "compute-sanitizer is not on PATH",
    }


def main() -> int:
    """Run what has not passed yet; returns 0 if all has, 1 if not, 2 without a GPU."""
    if not torch.cuda.is_available():
        print(f"gpu-check: torch {torch.__version__} sees no CUDA device here", file=sys.stderr)
        return 2
    properties = torch.cuda.get_device_properties(0)
    target = ROOT / "benchmarks/results" / label(properties.name) / f"check-{_commit()}.json"
    arch = f"{properties.major}.{properties.minor}" + ("a" if properties.major >= 9 else "")
    return run(parts(), target, {"TORCH_CUDA_ARCH_LIST": arch, "PYTHONPATH": f"tests{os.pathsep}."})


def label(name: str) -> str:
    """A short name of a GPU for a folder: "nvidia-h200"."""
    return "-".join(re.findall("[a-z0-9]+", name.lower()))


def run(commands: Mapping[str, list[str] | str], target: Path, environment: Mapping[str, str]) -> int:
    """Run the parts that `target` does not tell have passed, and tell of all there; returns 0 if all have passed."""
    outcomes: dict[str, Any] = json.loads(target.read_text())["parts"] if target.exists() else {}
    for name, command in commands.items():
        if outcomes.get(name, {}).get("status") == 0:
            print(f"{name}: has passed before")
            continue
        print(f"{name}: {command if isinstance(command, str) else ' '.join(command)}", flush=True)
        outcomes[name] = _outcome(command, environment)
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished = target.with_suffix(".unfinished")
        unfinished.write_text(json.dumps({"date": _now(), "commit": _commit(), "parts": outcomes}, indent=1) + "\n")
        unfinished.replace(target)
    failed = [name for name in commands if outcomes[name]["status"] != 0]
    print(f"{len(commands) - len(failed)} passed, {len(failed)} failed {' '.join(failed)}\n{target}")
    return 1 if failed else 0


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime())


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):  # the files travelled without their history
        return "unknown"


def _outcome(command: list[str] | str, environment: Mapping[str, str]) -> dict[str, Any]:
    """Exit status, seconds and the end of the output of a command, which is shown as it comes."""
    if isinstance(command, str):
        return {"status": None, "problem": command}
    began, lines = time.monotonic(), []
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line.rstrip("\n"))
    seconds = round(time.monotonic() - began, 1)
    return {"status": process.returncode, "seconds": seconds, "output": lines[-KEPT_LINES:]}


if __name__ == "__main__":
    sys.exit(main())
