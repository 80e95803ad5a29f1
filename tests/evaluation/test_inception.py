"""FID's Inception network against torch-fidelity's, and FID against torchmetrics, with the same random weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from published_weights import accept, installed, write_inception
from torch import nn

from pyeqgan.evaluation import InceptionFeatures, frechet_distance
from pyeqgan.evaluation.variants import VARIANTS


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("weights")


@pytest.fixture(scope="module")
def theirs(folder: Path) -> nn.Module:
    return write_inception(folder)


@pytest.fixture(autouse=True)
def accepted(folder: Path, theirs: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    accept(folder, monkeypatch)


def test_features_are_torch_fidelitys(folder: Path, theirs: nn.Module) -> None:
    pixels = torch.randint(0, 256, (3, 64, 64, 3), dtype=torch.uint8)
    ours, passed = InceptionFeatures(folder), []
    ours.body[0].register_forward_hook(lambda _, x, __: passed.append(len(x[0])))
    features = ours.features(pixels.numpy())
    assert features.shape == (3, 2048) and features.dtype == torch.float64
    assert sum(passed) == 3
    assert features.std() > 1e-3  # they say something
    assert torch.equal(features, theirs(pixels.permute(0, 3, 1, 2))[0].double())


@pytest.mark.parametrize("name", VARIANTS)
def test_the_published_scripts_prepare_images_as_pytorch_fid(name: str, folder: Path) -> None:
    pixels = torch.randint(0, 256, (1, 32, 32, 3), dtype=torch.uint8)
    enlarged = F.interpolate(pixels.permute(0, 3, 1, 2) / 255, size=(299, 299), mode="bilinear")
    ours = InceptionFeatures(folder, variant=VARIANTS[name])
    with torch.no_grad():
        expected = ours.body(2 * enlarged - 1).double()
    torch.testing.assert_close(ours.features(pixels.numpy()), expected, rtol=1e-5, atol=1e-7)
    protocol = InceptionFeatures(folder).features(pixels.numpy())
    assert (protocol - expected).norm() > 1e-3 * expected.norm()


@pytest.mark.parametrize(("generated", "real"), [(60, 90), (200, 20), (12, 7)])
def test_fid_agrees_with_torchmetrics(generated: int, real: int) -> None:
    class Same(nn.Module):
        num_features = 24

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    metric = installed("torchmetrics.image.fid").FrechetInceptionDistance(feature=Same()).set_dtype(torch.float64)
    x, y = torch.randn(generated, 24).double(), torch.randn(real, 24).double() * 1.5 + 0.3
    metric.update(x, real=False)
    metric.update(y, real=True)
    assert frechet_distance(x, y) == pytest.approx(float(metric.compute()), rel=1e-5)
