import pytest
from sampling import seed_everything


@pytest.fixture(autouse=True)
def seed() -> int:
    """A fresh seed for every test; pytest prints it with a failure."""
    return seed_everything()
