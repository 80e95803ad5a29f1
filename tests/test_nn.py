"""The modules: state, shapes, settings; their maths is tested with the operations."""

from __future__ import annotations

import copy

import pytest
import torch
from sampling import seed_everything
from torch import nn

from pyeqgan import functional
from pyeqgan.nn import ActivatedConv2d, EqualizationFusion, ModulatedNorm, SkipDecoderBlock
from pyeqgan.training.batch_norm import synchronize_batch_norm


def test_activated_conv_is_the_chain_it_replaces():
    seed_everything()
    module = ActivatedConv2d(3, 5)
    chain = nn.Sequential(nn.LeakyReLU(0.2), nn.Conv2d(3, 5, 3, padding=1, padding_mode="reflect"))
    chain[1].load_state_dict(module.state_dict())
    x = torch.randn(2, 3, 6, 7)
    torch.testing.assert_close(module(x), chain(x))


def test_activated_conv_takes_spectral_norm():
    seed_everything()
    module = nn.utils.parametrizations.spectral_norm(ActivatedConv2d(3, 5))
    module(torch.randn(1, 3, 4, 4)).sum().backward()
    assert module.parametrizations.weight.original.grad is not None


@pytest.mark.parametrize("fine", [False, True])
@pytest.mark.parametrize("norm", ["batch", "instance", None])
def test_skip_decoder_block_is_the_chain_it_replaces(norm, fine):
    seed_everything()
    module = SkipDecoderBlock(3, 2, 5, norm=norm)
    norms = {"batch": nn.BatchNorm2d(5), "instance": nn.InstanceNorm2d(5), None: nn.Identity()}
    up = nn.Upsample(scale_factor=2)
    conv = nn.Conv2d(5, 5, 3, padding=1, padding_mode="reflect")
    conv.load_state_dict(module.conv.state_dict())
    x, skip = torch.randn(2, 3, 4, 6), torch.randn(2, 2, *((8, 12) if fine else (4, 6)))
    joined = torch.cat([up(x), skip if fine else up(skip)], 1)
    expected = nn.functional.leaky_relu(norms[norm](conv(joined)), 0.2)
    torch.testing.assert_close(module(x, skip), expected, rtol=1e-4, atol=1e-5)
    for (name, ours), theirs in zip(module.norm.named_buffers(), norms[norm].buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, msg=name)


def test_skip_decoder_block_says_what_skip_it_wants():
    with pytest.raises(ValueError, match="skip: expected 2 channels, got None"):
        SkipDecoderBlock(3, 2, 5)(torch.zeros(1, 3, 4, 4))
    with pytest.raises(ValueError, match=r"skip: expected None, got shape \(1, 2, 4, 4\)"):
        SkipDecoderBlock(3, 0, 5)(torch.zeros(1, 3, 4, 4), torch.zeros(1, 2, 4, 4))
    with pytest.raises(ValueError, match="norm: expected one of None, 'batch', 'instance', got 'group'"):
        SkipDecoderBlock(3, 0, 5, norm="group")


def test_modules_copy_move_and_print():
    module = SkipDecoderBlock(3, 2, 5)
    twin = copy.deepcopy(module).to(torch.float64).eval()
    assert twin(torch.zeros(1, 3, 4, 4).double(), torch.zeros(1, 2, 4, 4).double()).dtype == torch.float64
    assert "norm='batch'" in repr(module)
    assert "activation='leaky_relu'" in repr(ActivatedConv2d(1, 1))


def test_evaluation_uses_and_keeps_the_running_statistics():
    seed_everything()
    module = SkipDecoderBlock(3, 0, 5)
    module(torch.randn(4, 3, 4, 4))
    module.eval()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    x = torch.randn(2, 3, 4, 4)
    together = module(x)
    torch.testing.assert_close(torch.cat([module(x[:1]), module(x[1:])]), together)
    assert all(torch.equal(before[k], v) for k, v in module.state_dict().items())


def test_everything_public_is_documented():
    for name in functional.__all__:
        text = getattr(functional, name).__doc__
        assert all(section in text for section in ("Args:", "Returns:", "Raises:", "Source:")), name


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "tanh", None])
def test_skip_decoder_block_takes_the_norm_of_several_processes(activation, tmp_path):
    seed_everything()
    module = SkipDecoderBlock(3, 2, 5, activation=activation, negative_slope=0.3).double()
    nn.init.normal_(module.norm.weight)
    synchronized = copy.deepcopy(module)
    synchronize_batch_norm(synchronized)
    torchs = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(module))
    x, skip = torch.randn(2, 3, 4, 5).double(), torch.randn(2, 2, 4, 5).double()
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        torch.testing.assert_close(synchronized(x, skip), module(x, skip))
    finally:
        torch.distributed.destroy_process_group()
    assert synchronized.state_dict().keys() == module.state_dict().keys()
    for name, tensor in module.state_dict().items():
        torch.testing.assert_close(synchronized.state_dict()[name], tensor, msg=name)
    torchs.load_state_dict(module.state_dict())
    torch.testing.assert_close(torchs.eval()(x, skip), module.eval()(x, skip))


@pytest.mark.parametrize("norm", ["batch", "instance", None])
def test_modulated_norm_is_the_chain_it_replaces(norm):
    seed_everything()
    module = ModulatedNorm(5, norm=norm)
    norms = {"batch": nn.BatchNorm2d(5, affine=False), "instance": nn.InstanceNorm2d(5), None: nn.Identity()}
    assert module.state_dict().keys() == {f"norm.{name}" for name in norms[norm].state_dict()}
    assert not list(module.parameters())
    for training in (True, False):
        module.train(training)
        x, gamma, beta = torch.randn(3, 2, 5, 4, 6)
        expected = nn.functional.leaky_relu(norms[norm].train(training)(x) * (1 + gamma) + beta, 0.2)
        torch.testing.assert_close(module(x, gamma, beta), expected)
    for (name, ours), theirs in zip(module.norm.named_buffers(), norms[norm].buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, msg=name)
    assert f"5, norm={norm!r}, activation='leaky_relu'" in repr(module)


def test_modulated_norm_takes_the_norm_of_several_processes(tmp_path):
    seed_everything()
    module = ModulatedNorm(3, norm="batch", activation="tanh").double()
    synchronized = copy.deepcopy(module)
    synchronize_batch_norm(synchronized)
    assert synchronized.state_dict().keys() == module.state_dict().keys()
    x, gamma, beta = torch.randn(3, 2, 3, 4, 5, dtype=torch.float64)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        torch.testing.assert_close(synchronized(x, gamma, beta), module(x, gamma, beta))
    finally:
        torch.distributed.destroy_process_group()
    for name, tensor in module.state_dict().items():
        torch.testing.assert_close(synchronized.state_dict()[name], tensor, msg=name)


def test_equalization_fusion_refuses_the_norm_of_several_processes():
    module = nn.SyncBatchNorm.convert_sync_batchnorm(EqualizationFusion(2, 3, 4, norm="batch"))
    with pytest.raises(TypeError, match="got SyncBatchNorm"):
        module(torch.randn(1, 2, 4, 4), torch.randn(1, 3, 4, 4))
