"""How pyeqgan.kernels is imported, and how not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, **environment})


def test_a_bare_import_is_refused():
    done = python("import kernels")
    assert done.returncode != 0 and "import pyeqgan.kernels instead" in done.stderr


def test_triton_is_not_imported_before_it_is_needed():
    done = python("import sys, pyeqgan.kernels; assert 'triton' not in sys.modules")
    assert done.returncode == 0, done.stderr


def test_without_triton_the_error_says_so():
    hide = (
        "import importlib.util as u; f = u.find_spec; u.find_spec = lambda n, *a: None if n == 'triton' else f(n, *a); "
    )
    done = python(hide + "import pyeqgan.kernels")
    assert done.returncode != 0 and "pip install 'pyeqgan[triton]'" in done.stderr


def test_tiles_are_one_by_default_and_all_when_autotuning():
    code = (
        "from pyeqgan.kernels._config import configs; import sys; "
        "sizes = {n: len(configs('bilateral_rows', n)) for n in ('sm90', 'sm123', 'interpreter')}; print(sizes)"
    )
    assert "{'sm90': 1, 'sm123': 1, 'interpreter': 1}" in python(code).stdout
    assert "{'sm90': 3, 'sm123': 3, 'interpreter': 1}" in python(code, PYEQGAN_AUTOTUNE="1").stdout
