"""The tests of the operations under AddressSanitizer and UndefinedBehaviorSanitizer: ``address.py [PYTEST ARGUMENT…]``.

Builds the package into build/asan and runs pytest on that build alone. The first finding ends the run, with its report.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "build/asan"
TESTS = ("tests/ops", "tests/fuzz", "tests/test_backends.py")


def runtime() -> str:
    """The libraries that must be loaded before Python."""
    found = []
    for name in ("libasan.so", "libubsan.so", "libstdc++.so"):
        done = subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True)
        found.append(done.stdout.strip())
        if not os.path.isabs(found[-1]):
            sys.exit(f"g++ has no {name}")
    return " ".join(found)


def main() -> int:
    """Returns the exit status: pytest's."""
    os.environ |= {"PYEQGAN_SANITIZE": "1", "PYEQGAN_CUDA": "0"}
    library = FOLDER / "lib"
    build = ["build", "--build-base", FOLDER, "--build-lib", library, "--build-temp", FOLDER / "objects"]
    done = subprocess.run([sys.executable, "setup.py", "-q", *build], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    os.environ |= {
        "PYTHONPATH": f"{library}{os.pathsep}{ROOT}",  # the second for tests whose processes import them again
        "LD_PRELOAD": runtime(),
        "ASAN_OPTIONS": "detect_leaks=0:quarantine_size_mb=16",  # little, as some tests measure memory
        "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
        "PYEQGAN_REQUIRE_NATIVE": "1",
        "OMP_NUM_THREADS": "2",
    }
    # Not in the checkout, whose package would come first.
    where = "import torch, pyeqgan._C as c; print(c.__file__, c.build_info()['flags'])"
    told = subprocess.run([sys.executable, "-c", where], cwd=FOLDER, capture_output=True, text=True)
    if not told.stdout.startswith(str(library)) or "-fsanitize" not in told.stdout:
        sys.exit(f"expected the sanitized module in {library}, got {told.stdout or told.stderr}")
    # pytest's own script puts nothing before that path; one process, whose reports nobody captures.
    pytest = [sys.executable, Path(sys.executable).with_name("pytest"), "-q", "-p", "no:xdist", "--capture=sys"]
    return subprocess.run([*pytest, *(sys.argv[1:] or TESTS)], cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(main())
