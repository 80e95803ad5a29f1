"""Hand-written operations are recognised by what they compute, and only where they compute it everywhere."""

from __future__ import annotations

import copy

import pytest
import torch
from sampling import seed_everything
from styles import fusion, medfe, pixel_contrast
from styles.training import assert_trains_alike
from torch import nn

from pyeqgan.patch import accelerate, candidates

pytestmark = pytest.mark.usefixtures("one_thread")


def assert_same(a, b, *inputs, tolerance=1e-7):
    """Outputs and gradients to the inputs; torch's softplus(x) is x from 20 on, which is 2e-9 less."""
    results = []
    for module in (a, b):
        leaves = [i.clone().requires_grad_(i.is_floating_point()) for i in inputs]
        outputs = module(*leaves)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        grads = torch.autograd.grad(outputs[0].square().sum(), [i for i in leaves if i.requires_grad])
        results.append([*outputs, *grads])
    for x, y in zip(*results, strict=True):
        torch.testing.assert_close(x, y, rtol=tolerance, atol=tolerance)


@pytest.fixture
def kernels(monkeypatch):
    called = []

    def spied(name, operation):
        def spy(*arguments, **options):
            called.append(name)
            return operation(*arguments, **options)

        return spy

    for name in ("bilateral_propagation", "contrastive_loss", "local_fusion"):
        monkeypatch.setattr(candidates.functional, name, spied(name, getattr(candidates.functional, name)))
    return called


@pytest.mark.parametrize("maps", [False, True])
@pytest.mark.parametrize("make", [pixel_contrast.PerPositive, pixel_contrast.SupervisedContrast])
def test_contrastive_losses(make, maps, kernels):
    seed_everything()
    loss = make()
    features, labels = torch.randn(24, 4, dtype=torch.float64), torch.randint(-1, 4, (24,))
    if maps:
        loss, features, labels = Maps(loss), features.view(2, 3, 4, 4).permute(0, 3, 1, 2), labels.view(2, 3, 4)
    twin = copy.deepcopy(loss)
    report = accelerate(twin)
    assert len(report.swapped) == 1, str(report)
    inputs = (labels, features) if make is pixel_contrast.SupervisedContrast else (features, labels)
    kernels.clear()
    assert_same(twin, loss, *inputs)
    assert kernels == ["contrastive_loss"]
    report.undo()
    assert type(twin) is type(loss)


class Maps(nn.Module):
    """The loss of all pixels of a map."""

    def __init__(self, loss):
        super().__init__()
        self.loss = loss

    def forward(self, first, second):
        return self.loss(self.rows(first), self.rows(second))

    def rows(self, x):
        return x.movedim(1, -1).flatten(0, 2) if x.dim() == 4 else x.flatten()


def test_a_constant_factor_is_measured(kernels):
    seed_everything()
    loss = pixel_contrast.PerPositive(0.2, 0.07)
    twin = copy.deepcopy(loss)
    report = accelerate(twin)
    assert "contrastive_loss(temperature=0.2, mode='per_positive', times 2.85714)" in str(report)
    kernels.clear()
    assert_same(twin, loss, torch.randn(20, 3, dtype=torch.float64), torch.randint(3, (20,)))
    assert kernels


def test_a_temperature_that_changes_is_followed(kernels):
    seed_everything()
    loss = pixel_contrast.PerPositive()
    twin = copy.deepcopy(loss)
    assert accelerate(twin).swapped
    loss.temperature = twin.temperature = 0.3
    kernels.clear()
    assert_same(twin, loss, torch.randn(20, 3, dtype=torch.float64), torch.randint(3, (20,)))
    assert not kernels


def test_a_loss_that_divides_by_no_positives_is_left():
    report = accelerate(pixel_contrast.AsPublished())
    assert not report.swapped
    assert "but not where a row has no positive" in report.left[0].reason


class OwnPositive(pixel_contrast.PerPositive):
    """A near miss: a row is its own positive."""

    def forward(self, features, labels):
        unit = torch.nn.functional.normalize(features, dim=1)
        logits = unit @ unit.t() / self.temperature
        equal = labels[:, None] == labels
        negatives = torch.logsumexp(logits.masked_fill(equal, -torch.inf), 1, keepdim=True)
        positive = equal.to(features.dtype)
        rows = (torch.nn.functional.softplus(negatives - logits) * positive).sum(1) / positive.sum(1)
        return rows.mean()


class Clamped(pixel_contrast.PerPositive):
    """A near miss: large features are cut."""

    def forward(self, features, labels):
        return super().forward(features.clamp(-20, 20), labels)


class Detached(pixel_contrast.PerPositive):
    """A near miss: the same values, without a gradient through the keys."""

    def forward(self, features, labels):
        unit = torch.nn.functional.normalize(features, dim=1)
        logits = unit @ unit.detach().t() / self.temperature
        equal = (labels[:, None] == labels).to(features.dtype)
        positive = equal * (1 - torch.diag_embed(torch.ones_like(features[:, 0])))
        negatives = torch.logsumexp(logits.masked_fill(equal.bool(), -torch.inf), 1, keepdim=True)
        rows = (torch.nn.functional.softplus(negatives - logits) * positive).sum(1) / positive.sum(1).clamp_min(1)
        return rows.sum() / (positive.sum(1) > 0).sum().clamp_min(1)


class Noisy(pixel_contrast.PerPositive):
    def forward(self, features, labels):
        return super().forward(features + 0 * torch.randn_like(features), labels)


@pytest.mark.parametrize("make", [OwnPositive, Clamped, Detached, Noisy])
def test_other_losses_are_left(make):
    report = accelerate(make())
    assert not report.swapped, str(report)


@pytest.mark.parametrize("make", [fusion.VectorisedFusion, fusion.FusedOnly])
def test_local_fusion(make, kernels):
    seed_everything()
    module = make()
    twin = copy.deepcopy(module)
    report = accelerate(twin)
    assert [s.operation for s in report.swapped] == ["local_fusion()"], str(report)
    base, references = torch.randn(2, 4, 3, 5, dtype=torch.float64), torch.randn(2, 2, 4, 3, 5, dtype=torch.float64)
    weights = torch.rand(2, 3, dtype=torch.float64)
    positions = torch.stack([torch.randperm(15)[:6] for _ in range(2)])
    inputs = (base, references, positions, weights)
    kernels.clear()
    assert_same(twin, module, *(inputs if make is fusion.VectorisedFusion else (positions, weights, references, base)))
    assert kernels == ["local_fusion"]


def test_another_similarity_is_left():
    assert not accelerate(fusion.WithoutNormalization()).swapped


def test_equalization_trains_alike(kernels):
    """The Gaussian is a float32 buffer, which allows no more than its own accuracy."""
    seed_everything()
    net = medfe.EqualizationNet(4, 8)
    twin = copy.deepcopy(net)
    report = accelerate(twin)
    assert [(s.name, s.operation) for s in report.swapped] == [("base", "bilateral_propagation(sigma=1.5)")]
    x = torch.randn(2, 3, 32, 32)
    kernels.clear()
    ours, theirs = twin(x), net(x)
    assert kernels == ["bilateral_propagation"]
    torch.testing.assert_close(ours, theirs)
    report.undo()
    accelerate(net, verify=True, inputs=(x,))


def test_the_public_layout_which_scrambles_pixels_is_left():
    assert not accelerate(medfe.EqualizationNet(4, 8, medfe.PublicLayout)).swapped


def test_autocast_is_left_to_the_author(kernels):
    module = medfe.Equalization(4, 6)
    twin = copy.deepcopy(module)
    accelerate(twin)
    kernels.clear()
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(twin(x := torch.randn(1, 4, 6, 6)), module(x), rtol=0, atol=0)
    assert not kernels


class Wide(medfe.Equalization):
    """A near miss: the range term without its softmax."""

    def ranged(self, v):
        b, c, h, w = v.size()
        return torch.nn.functional.unfold(v, 3, padding=1).view(b, c, 9, h, w).mean(2)


class Written(medfe.Equalization):
    """A near miss: the map is written to between its two uses, by an operation whose result nobody takes."""

    def forward(self, x):
        v = self.gate(x)
        spatial = self.spatial(v)
        v.mul_(2)
        return self.down(torch.cat([spatial, self.ranged(v)], 1))


def test_a_map_that_is_written_to_meanwhile_is_left():
    assert not accelerate(Written(4, 5)).swapped


def test_another_range_term_is_left():
    assert not accelerate(Wide(4, 5)).swapped


def test_a_buffer_that_is_written_to_is_followed(kernels):
    seed_everything()
    module = medfe.Equalization(4, 6)
    twin = copy.deepcopy(module)
    assert accelerate(twin).swapped
    state = {k: v.clone() for k, v in module.state_dict().items()}
    x = torch.randn(2, 4, 6, 6)
    for gaussian, runs in ((medfe.gaussian(6, 3.0), 0), (state["gaussian"], 1)):
        state["gaussian"] = gaussian.float()
        for m in (module, twin):
            m.load_state_dict(state)
        kernels.clear()
        torch.testing.assert_close(twin(x), module(x))
        assert len(kernels) == runs
    assert_trains_alike(module, x, steps=1)
