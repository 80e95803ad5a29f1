import secrets

import numpy as np
import pytest


@pytest.fixture
def rng() -> np.random.Generator:
    """Random numbers from a fresh seed; pytest prints it with a failure."""
    seed = secrets.randbits(31)
    print(f"np.random.default_rng({seed})")
    return np.random.default_rng(seed)
