"""The emulation of CUDA's execution model finds what it is there to find."""

from __future__ import annotations

import ctypes
import itertools
import os
import subprocess
import sys
from ctypes import c_bool, c_int, c_void_p

import pytest
import torch
from sampling import seed_everything

from .conftest import EMULATION


@pytest.fixture(scope="session")
def library(emulate) -> ctypes.CDLL:
    return emulate(EMULATION / "self_test.cu")


def pointer(x: torch.Tensor) -> c_void_p:
    return c_void_p(x.data_ptr())


def reverse(library, x, *, barrier, seed):
    library.emulation_seed(seed)
    out = torch.full_like(x, torch.nan)
    assert library.run_reverse(pointer(x), pointer(out), c_int(len(x)), c_bool(barrier)) == 0
    return out


def test_blocks_barriers_and_static_shared_memory(library):
    x = torch.randn(7, 96)
    for seed in range(5):
        assert torch.equal(reverse(library, x, barrier=True, seed=seed), x.flip(1))


def test_a_missing_barrier_shows(library):
    x = torch.randn(1, 96)
    results = [reverse(library, x, barrier=False, seed=seed) for seed in range(5)]
    assert all(r.isnan().any() for r in results)
    assert not any(torch.equal(a.isnan(), b.isnan()) for a, b in itertools.pairwise(results))


def test_shared_memory_starts_as_nan(library):
    out = torch.zeros(64)
    assert library.run_unwritten(pointer(out)) == 0
    assert out.isnan().all()


@pytest.mark.parametrize("waits", [True, False])
def test_what_is_copied_in_the_background_is_there_once_it_was_waited_for(library, waits):
    x, out = torch.randn(32), torch.zeros(32)
    assert library.run_copied(pointer(x), pointer(out), c_bool(waits)) == 0
    assert torch.equal(out, x) if waits else out.isnan().any()


def test_products_of_a_warp(library):
    seed_everything()
    x, out = torch.randint(-9, 9, (16, 16)).float(), torch.full((2, 16, 8), torch.nan)
    assert library.run_multiplied(pointer(x), pointer(out)) == 0
    assert torch.equal(out[0], x @ x[:8].T) and torch.equal(out[1], x @ x[:, :8])


def test_warp_exchanges_also_in_a_partial_warp(library):
    seed_everything()
    x, out = torch.randint(0, 9, (40,)).float(), torch.full((40, 5), torch.nan)
    assert library.run_exchanges(pointer(x), pointer(out)) == 0
    for warp in (x[:32], x[32:]):
        lanes = len(warp)
        base = 0 if lanes == 32 else 32
        votes = sum(1 << i for i in range(lanes) if warp[i] > 4) & 0xFFFF
        for i in range(lanes):
            partner = [3, i ^ 1, i + 2, i - 2]
            expected = [warp[j].item() if 0 <= j < lanes else warp[i].item() for j in partner]
            assert out[base + i].tolist() == [*expected, votes]


def test_more_dynamic_shared_memory_than_granted_is_refused(library):
    x = torch.randn(32)
    assert library.run_past_the_end(pointer(x), pointer(x), c_int(228 * 1024)) == 1


def in_a_process_of_its_own(library, call):
    code = f"import ctypes; library = ctypes.CDLL({library._name!r}); x = (ctypes.c_float * 32)(); {call}"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)


def test_threads_at_different_barriers_are_a_deadlock(library):
    done = in_a_process_of_its_own(library, "library.run_stuck()")
    assert done.returncode != 0 and "deadlock" in done.stderr


@pytest.mark.skipif(os.environ.get("EMULATION_SANITIZE") != "1", reason="runs in test_sanitized.py")
def test_an_access_past_dynamic_shared_memory_is_caught(library):
    call = "library.run_past_the_end(x, x, {})"
    assert in_a_process_of_its_own(library, call.format(128)).returncode == 0
    done = in_a_process_of_its_own(library, call.format(124))
    assert done.returncode != 0 and "use-after-poison" in done.stderr
