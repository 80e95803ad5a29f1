"""What tests of every folder may ask for."""

import secrets

import numpy as np
import pytest
import torch

SLOW_SECONDS = 3600  # of a slow test that names no limit of its own: a busy machine is no failure


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(SLOW_SECONDS))


@pytest.fixture
def rng() -> np.random.Generator:
    """Random numbers from a fresh seed; pytest prints it with a failure."""
    seed = secrets.randbits(31)
    print(f"np.random.default_rng({seed})")
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def one_thread():
    """Runs that are compared bit for bit add in one order; and tiny ones gain nothing from more threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
