"""Models in the style of public code, from their equations: the same training, step by step, in float64."""

from __future__ import annotations

import copy
import random

import pytest
import torch
from sampling import seed_everything
from styles import medfe, wavegan
from styles.training import assert_trains_alike, gradient_penalty
from torch import nn

from pyeqgan.benchmarks import accelerated, lofgan_style
from pyeqgan.benchmarks.step import Problem
from pyeqgan.patch import accelerate, chains

pytestmark = pytest.mark.usefixtures("one_thread")


class Evaluated(nn.Module):
    """The generator's image, for fixed random choices."""

    def __init__(self, generator):
        super().__init__()
        self.generator = generator

    def forward(self, x):
        torch.manual_seed(3)
        random.seed(3)
        return self.generator(x).images


def test_lofgan_generator():
    seed_everything()
    report = assert_trains_alike(Evaluated(lofgan_style.Generator(1 / 16)), torch.randn(2, 3, 3, 32, 32), swaps=4)
    assert {s.operation for s in report.swapped} == {"skip_decoder_block"}
    reasons = {left.name: left.reason for left in report.left}
    assert "random" in reasons["generator.fusion"]
    assert "stride (2, 2)" in reasons["generator.encoder.model.2.conv"]


def test_lofgan_discriminator_under_its_penalty(monkeypatch):
    monkeypatch.setattr(chains, "LEAST_CHANNELS", 2)
    seed_everything()

    class Logit(lofgan_style.Discriminator):
        def forward(self, images):
            logit, classes = super().forward(images)
            return logit.sum() + classes.square().sum()

    model = Logit(5, 1 / 32)
    report = assert_trains_alike(model, torch.randn(2, 3, 32, 32), loss=gradient_penalty, steps=2, swaps=10)
    assert {s.operation for s in report.swapped} == {"activated_conv2d"}


def test_lofgans_training_step_matches(monkeypatch):
    """What the benchmark asks before it measures."""
    monkeypatch.setattr(chains, "LEAST_CHANNELS", 2)
    setting = accelerated.Setting(Problem(32, 1, 1 / 16, 2))
    assert len(setting.accelerated()[1].swapped) == 14
    assert setting.match_error() < 1e-3


def test_wavegan_generator():
    seed_everything()
    model = wavegan.Generator(4)
    report = assert_trains_alike(model, torch.randn(2, 3, 32, 32), swaps=3)
    assert {s.name for s in report.swapped} == {"decoder.conv1.conv", "decoder.conv2.conv", "decoder.conv3.conv"}


def test_medfe_net_in_float32():
    """Its Gaussian is a float32 buffer: see test_recognition."""
    seed_everything()
    net = medfe.EqualizationNet(4, 8)
    twin = copy.deepcopy(net)
    report = accelerate(twin, verify=True, inputs=(torch.randn(2, 3, 32, 32),))
    assert [s.name for s in report.swapped] == ["base"]
    assert list(twin.state_dict()) == list(net.state_dict())
