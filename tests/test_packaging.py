"""What is shipped: the source distribution, the objects, the package data, the refusals."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the sources, so that building leaves nothing in the tree."""
    target = tmp_path_factory.mktemp("checkout")
    ignore = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "*.so", "__pycache__", "demo*", "runs")
    shutil.copytree(ROOT, target, ignore=ignore, dirs_exist_ok=True)
    return target


def build(checkout, *arguments, **environment):
    return subprocess.run(
        [sys.executable, "setup.py", *arguments],
        cwd=checkout,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=280,
    )


def test_source_distribution_holds_every_source(checkout):
    done = build(checkout, "-q", "sdist", PYEQGAN_NATIVE="0")
    assert done.returncode == 0, done.stderr
    (archive,) = (checkout / "dist").glob("pyeqgan-*.tar.gz")
    with tarfile.open(archive) as tar:
        names = {n.partition("/")[2] for n in tar.getnames()}
    for folder, suffixes in (
        ("csrc", {".cpp", ".h", ".cu", ".cuh"}),
        ("kernels", {".py", ".json"}),
        ("pyeqgan", {".py"}),
    ):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in suffixes and "__pycache__" not in path.parts:
                assert str(path.relative_to(ROOT)) in names
    assert {"LICENSE", "README.md", "setup.py", "pyproject.toml", "pyeqgan/py.typed"} <= names
    assert not any(n.endswith((".so", ".o")) for n in names)


def test_installs_without_a_compiler(checkout, tmp_path):
    """PYEQGAN_NATIVE=0 makes a wheel without the module, with every package and the Triton kernels in their place."""
    done = build(checkout, "-q", "bdist_wheel", "-d", str(tmp_path), PYEQGAN_NATIVE="0")
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = subprocess.run(
        [sys.executable, "-m", "zipfile", "-l", str(wheel)], capture_output=True, text=True, check=True
    ).stdout.split()
    packages = {str(p.parent.relative_to(ROOT)) for p in (ROOT / "pyeqgan").rglob("__init__.py")}
    for package in packages:
        assert f"{package}/__init__.py" in names
    assert "pyeqgan/kernels/__init__.py" in names
    assert not any(n.startswith("kernels/") for n in names)


def test_a_broken_compiler_fails_the_build(checkout):
    done = build(checkout, "build_ext", "--build-temp", "broken", CXX="false", PYEQGAN_CUDA="0")
    assert done.returncode != 0
    assert "failed" in done.stderr


def test_a_demanded_nvcc_must_exist(checkout):
    done = build(checkout, "build_ext", "--build-temp", "nocuda", CUDA_HOME="/nonexistent", PYEQGAN_CUDA="1")
    assert done.returncode != 0
    assert "no working nvcc" in done.stderr


def test_objects_hold_no_weak_symbol():
    """A weak function of an AVX-512 object could replace its twin in the others and crash an older processor."""
    # Those of the module; what sanitizers look at, barely optimised, lies beside them and is never shipped.
    found = (ROOT / "build").glob("temp.*/*.o")
    objects = [o for o in found if re.search(r"_kernel\.(DEFAULT|AVX2|AVX512)\.o$|\.matrix_unit\.o$", o.name)]
    if not objects:
        pytest.skip("no build folder beside the sources (installed from a wheel)")
    for path in objects:
        symbols = subprocess.run(["nm", "-C", str(path)], capture_output=True, text=True, check=True).stdout
        # at::vec's own functions carry the instruction set in their names: they have no twin elsewhere.
        own = f"at::vec::{path.suffixes[-2].lstrip('.')}::"
        weak = [s for s in symbols.splitlines() if re.match(r"\S* [WVu] ", s)]
        weak = [s for s in weak if "__gxx_personality" not in s and not s.partition(" W ")[2].startswith(own)]
        assert not weak, f"{path.name}: {weak[:5]}"


def test_module_uses_the_stable_abi_alone():
    import pyeqgan._C

    symbols = subprocess.run(
        ["nm", "-DC", "--undefined-only", pyeqgan._C.__file__], capture_output=True, text=True, check=True
    ).stdout
    unstable = [s for s in symbols.splitlines() if re.search(r"\b(at|c10|caffe2)::", s)]
    assert not unstable


def test_module_needs_torch_and_the_c_libraries_alone():
    """So that a wheel of it runs elsewhere: nothing of conda, no path of the machine it was built on."""
    import pyeqgan._C

    dynamic = subprocess.run(["readelf", "-dW", pyeqgan._C.__file__], capture_output=True, text=True, check=True).stdout
    needed = set(re.findall(r"\(NEEDED\).*\[(.*?)\]", dynamic))
    system = r"lib(stdc\+\+|m|gcc_s|c|dl|rt|pthread)\.so\.\d+|ld-linux-.*"
    assert {n for n in needed if not re.fullmatch(system, n)} <= {"libtorch.so", "libtorch_cpu.so", "libc10.so"}
    assert "RPATH" not in dynamic and "RUNPATH" not in dynamic


@pytest.mark.slow
@pytest.mark.timeout(1600)
def test_a_wheel_is_built_tagged_and_tried(checkout, tmp_path):
    """`make wheel` ends by importing what it has made, from a folder of its own, with native kernels."""
    pytest.importorskip("auditwheel")
    command = [sys.executable, "packaging/wheel.py", "--output", str(tmp_path)]
    done = subprocess.run(
        command, cwd=checkout, env=os.environ | {"PYEQGAN_CUDA": "0"}, capture_output=True, text=True, timeout=1500
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    assert re.search(r"-manylinux_2_\d+_", wheel.name)
    assert re.search(r"^GLIBC_2\.\d+: \w+", done.stdout, re.MULTILINE)
    assert "with native kernels" in done.stdout
    names = subprocess.run([sys.executable, "-m", "zipfile", "-l", str(wheel)], capture_output=True, text=True).stdout
    assert ".libs/" not in names and "libtorch" not in names


def test_bare_import_of_the_kernels_is_refused():
    done = subprocess.run([sys.executable, "-c", "import kernels"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "pyeqgan.kernels" in done.stderr


def test_readme_tables_are_generated():
    """The README's table of operations is what the generator prints, not what somebody typed."""
    done = subprocess.run(
        [sys.executable, "docs/tables.py", "--check"], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_importing_compiles_nothing_and_is_light():
    code = "import sys, pyeqgan; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
