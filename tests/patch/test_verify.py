"""The proof of a swap, and what it leaves behind: nothing."""

from __future__ import annotations

import copy

import pytest
import torch
from styles.blocks import Block
from torch import nn

from pyeqgan.errors import UserError
from pyeqgan.patch import VerificationError, accelerate, chains
from pyeqgan.patch.installing import installed

pytestmark = pytest.mark.usefixtures("one_thread")


def test_what_is_no_module_is_refused():
    with pytest.raises(UserError, match=r"model: expected a torch\.nn\.Module, got list"):
        accelerate([nn.ReLU()])


def test_verify_wants_inputs(net):
    with pytest.raises(UserError, match="expected example inputs"):
        accelerate(net, verify=True)


def test_verify_measures_and_restores(net, x):
    net = net.float()
    net(x.float()).sum().backward()
    state = {k: v.clone() for k, v in net.state_dict().items()}
    grads = [p.grad for p in net.parameters()]
    values = [g.clone() for g in grads]
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    report = accelerate(net, verify=True, inputs=(x.float(),))
    assert torch.equal(torch.rand(1), expected)
    assert 0 < report.error < 1e-3
    assert "verified" in str(report)
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())
    assert all(p.grad is g and torch.equal(g, v) for p, g, v in zip(net.parameters(), grads, values, strict=True))
    assert installed(net.block)


def test_verify_leaves_no_graph_behind(x):
    """Spectral norm's hook keeps the weight it computed as an attribute; with a graph in it nothing could be copied."""
    block = Block().double()
    nn.utils.spectral_norm(block.conv)
    accelerate(block, verify=True, inputs=(x,))
    copy.deepcopy(block)


@pytest.mark.parametrize("wrong", ["output", "gradient", "buffer"])
def test_verify_undoes_a_swap_that_differs(net, x, monkeypatch, wrong):
    operation = chains.functional.skip_decoder_block

    def different(x, *arguments, **options):
        if wrong == "buffer":
            options["momentum"] = 0.2
        y = operation(x.detach() if wrong == "gradient" else x, *arguments, **options)
        return y * 1.01 if wrong == "output" else y

    monkeypatch.setattr(chains.functional, "skip_decoder_block", different)
    with pytest.raises(VerificationError, match=f"verify: {wrong}.*|got a difference in gradient of input 0"):
        accelerate(net, verify=True, inputs=(x,))
    assert not any(installed(m) for m in net.modules())
