"""What tests of every folder may ask for."""

import pytest
import torch


@pytest.fixture(scope="module")
def one_thread():
    """Runs that are compared bit for bit add in one order; and tiny ones gain nothing from more threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
