"""Instructions of every kernel against the recorded ones: a gate that no neighbour on the machine can move.

``gate.py`` fails where a kernel takes more than 3 % more instructions than counts.json says; ``gate.py --update``
records them. Counted is what runs inside the loops over threads, on one thread, of the problems of tests/standalone,
with the AVX2 kernels (valgrind knows no AVX-512). Another compiler or torch (whose vector headers the kernels use)
makes other instructions, so each has counts of its own.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
RECORD = HERE / "counts.json"
ALLOWED = 1.03


def toolchain() -> str:
    """The compiler that setup.py uses and torch, by name and version."""
    command = [*shlex.split(os.environ.get("CXX", "g++")), "--version"]
    compiler = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0]
    return f"{compiler}, torch {torch.__version__.partition('+')[0]}"


def measure() -> dict[str, int]:
    """Build the driver and count the instructions of its problems, by name."""
    builder = [sys.executable, ROOT / "tests/standalone/build.py", ROOT / "build/standalone"]
    built = subprocess.run(builder, stdout=subprocess.PIPE, text=True)
    if built.returncode:
        sys.exit("nothing was counted: the driver does not build")
    with tempfile.TemporaryDirectory() as folder:
        options = ["--instr-atstart=no", "--collect-atstart=no", f"--callgrind-out-file={folder}/out"]
        command = ["valgrind", "--tool=callgrind", *options, built.stdout.strip(), "count"]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "ATEN_CPU_CAPABILITY": "avx2"}
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            sys.exit(done.stdout)
        counts = {}
        for path in Path(folder).glob("out.*"):
            text = path.read_text()
            name = re.search(r"^desc: Trigger: Client Request: (.*)$", text, re.MULTILINE)
            total = re.search(r"^totals: (\d+)$", text, re.MULTILINE)
            if name and total:
                counts[name[1]] = int(total[1])
    return dict(sorted(counts.items()))


def compare(counts: dict[str, int], recorded: dict[str, int]) -> list[str]:
    """What is wrong, a line each."""
    wrong = [f"{name}: recorded, but not measured" for name in recorded.keys() - counts.keys()]
    for name, count in counts.items():
        before = recorded.get(name)
        if before is None:
            wrong.append(f"{name}: not recorded yet")
        elif count > ALLOWED * before:
            wrong.append(f"{name}: {before} → {count}, {count / before - 1:+.1%}")
    return wrong


def main() -> int:
    """Returns the exit status."""
    if shutil.which("valgrind") is None:
        sys.exit("nothing was counted: install valgrind (apt-get install valgrind)")
    update, key = sys.argv[1:] == ["--update"], toolchain()
    record: dict[str, dict[str, int]] = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else {}
    if not update and key not in record:
        known = "; ".join(record) or "nothing"
        sys.exit(f"nothing was compared: this is {key}, counts are of {known}; make bench-instructions-update adds it")
    counts = measure()
    if not counts:
        sys.exit("nothing was counted: the compiler did not find valgrind/callgrind.h")
    if update:
        text = json.dumps(record | {key: counts}, indent=1, sort_keys=True)
        RECORD.write_text(text + "\n", encoding="utf-8")
        print(f"{len(counts)} counts recorded for {key}")
        return 0
    wrong = compare(counts, record[key])
    better = sum(ALLOWED * count < record[key].get(name, 0) for name, count in counts.items())
    print(*wrong, f"{len(counts)} counted, {len(wrong)} wrong, {better} more than 3 % better", sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
