"""What tests of every folder may ask for."""

import secrets

import numpy as np
import pytest
import torch


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
