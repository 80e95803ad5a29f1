"""A net to swap, and the calls of the kernels."""

from __future__ import annotations

import pytest
import torch
from sampling import seed_everything
from styles.blocks import Net

from pyeqgan.patch import chains


@pytest.fixture
def kernels(monkeypatch):
    """The names of the operations, in the order they are called."""
    called = []

    def spied(name, operation):
        def spy(*arguments, **options):
            called.append(name)
            return operation(*arguments, **options)

        return spy

    for name in ("skip_decoder_block", "activated_conv2d"):
        monkeypatch.setattr(chains.functional, name, spied(name, getattr(chains.functional, name)))
    return called


@pytest.fixture
def net():
    seed_everything()
    return Net().double()


@pytest.fixture
def x():
    return torch.randn(2, 3, 4, 5, dtype=torch.float64)
