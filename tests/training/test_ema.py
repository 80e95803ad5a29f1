import pytest
import torch
from torch import nn

from pyeqgan.training import ExponentialMovingAverage


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3))


def test_it_averages_parameters_and_float_buffers_and_copies_counters():
    source = network()
    average = ExponentialMovingAverage(source, decay=0.5)
    expected = {k: v.clone() for k, v in source.state_dict().items()}
    for n in range(1, 15):
        with torch.no_grad():
            for parameter in source.parameters():
                parameter.normal_()
        source(torch.randn(4, 2, 3, 3))
        average.update(source)
        keep = min(0.5, n / (n + 9))
        for name, value in source.state_dict().items():
            moved = keep * expected[name] + (1 - keep) * value
            expected[name] = moved if value.is_floating_point() else value.clone()
    for name, value in average.module.state_dict().items():
        torch.testing.assert_close(value, expected[name])
    assert average.module[1].num_batches_tracked == 14
    assert average.updates == 14


def test_it_is_a_copy_in_float32_and_eval_mode_without_gradients():
    source = network().to(torch.bfloat16)
    average = ExponentialMovingAverage(source)
    average.train()
    assert all(p.dtype == torch.float32 and not p.requires_grad for p in average.parameters())
    assert not average.module[1].training
    with torch.no_grad():
        source[0].weight.add_(1)
    assert not torch.equal(average.module[0].weight, source[0].weight.float())
    assert source[0].weight.requires_grad and source[0].weight.dtype == torch.bfloat16
    average.update(source)
    torch.testing.assert_close(average.module[0].weight, source[0].weight.float() - 0.1, atol=0.02, rtol=0)


def test_a_loaded_average_continues_as_if_never_stopped():
    source = network()
    average = ExponentialMovingAverage(source, decay=0.9)
    average.update(source)
    resumed = ExponentialMovingAverage(network(), decay=0.9)
    resumed.load_state_dict({k: v.clone() for k, v in average.state_dict().items()})
    with torch.no_grad():
        source[0].weight.normal_()
    average.update(source)
    resumed.update(source)
    for name, value in average.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert set(average.state_dict()) == {"updates"} | {f"module.{k}" for k in source.state_dict()}


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match=r"decay: expected a number in \[0, 1\), got 1"):
        ExponentialMovingAverage(network(), decay=1)
    with pytest.raises(ValueError, match="expected the network it copies, differs in 0"):
        ExponentialMovingAverage(network()).update(nn.Sequential())
