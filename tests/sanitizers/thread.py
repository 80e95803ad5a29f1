"""The compiled operations under ThreadSanitizer: each of tests/standalone on one thread and on four.

Without Python and OpenMP, of which ThreadSanitizer reports what is no race. Neighbouring work items run on different
threads, and the results must not depend on the number of threads.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    """Returns the exit status: 66 where there is a race, 1 where results differ."""
    builder = [sys.executable, ROOT / "tests/standalone/build.py", ROOT / "build/tsan", "-fsanitize=thread"]
    driver = subprocess.run(builder, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TSAN_OPTIONS": "halt_on_error=1:exitcode=66"}
    return subprocess.run([driver, "check", *sys.argv[1:]], env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
