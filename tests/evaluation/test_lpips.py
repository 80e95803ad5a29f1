"""LPIPS of all pairs against torchmetrics, pair by pair, with the same random weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from published_weights import accept, installed, write_backbone
from torch import Tensor, nn

from pyeqgan.data import to_tensor
from pyeqgan.evaluation import LPIPS, mean_lpips
from pyeqgan.evaluation.diversity import pairwise_distances
from pyeqgan.evaluation.variants import VARIANTS

BACKBONES = ("vgg", "alex")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("weights")


@pytest.fixture(scope="module")
def networks(folder: Path) -> dict[str, nn.Sequential]:
    return {backbone: write_backbone(folder, backbone) for backbone in BACKBONES}


@pytest.fixture(autouse=True)
def accepted(folder: Path, networks: dict[str, nn.Sequential], monkeypatch: pytest.MonkeyPatch) -> None:
    accept(folder, monkeypatch)
    theirs = installed("torchmetrics.functional.image.lpips")
    names = {"vgg16": "vgg", "alexnet": "alex"}
    monkeypatch.setattr(theirs, "_get_tv_model_features", lambda net, pretrained: networks[names[net]])


def images(n: int, size: int = 32) -> np.ndarray:
    """Half of them random, half hardly different from another."""
    pixels = torch.randint(0, 256, (n, size, size, 3), dtype=torch.uint8).numpy()
    pixels[n // 2 :] = (pixels[: n - n // 2] // 16 * 16) + pixels[n // 2 :] // 16
    return pixels


def by_torchmetrics(backbone: str, x: Tensor, y: Tensor) -> Tensor:
    of_pairs = installed("torchmetrics.functional.image.lpips").learned_perceptual_image_patch_similarity
    found: Tensor = of_pairs(x, y, net_type=backbone, reduction="none")
    return found.detach()


@pytest.mark.parametrize("backbone", BACKBONES)
def test_all_pairs_agree_with_torchmetrics(backbone: str, folder: Path) -> None:
    pixels = images(8)
    embeddings = LPIPS(backbone, folder).embed(pixels)  # type: ignore[arg-type]
    i, j = torch.triu_indices(8, 8, 1)
    x = to_tensor(pixels)
    expected = by_torchmetrics(backbone, x[i], x[j]).double()
    assert expected.min() > 0 and expected.max() > 3 * expected.min()
    torch.testing.assert_close(pairwise_distances(embeddings).square()[i, j], expected, rtol=1e-5, atol=1e-7)
    assert mean_lpips(embeddings) == pytest.approx(float(expected.mean()), rel=1e-5)


def test_larger_images_are_reduced_by_areas(folder: Path) -> None:
    pixels = images(2, 96)
    x = to_tensor(pixels).reshape(2, 3, 32, 3, 32, 3).mean((3, 5))
    expected = float(by_torchmetrics("alex", x[:1], x[1:]))
    assert mean_lpips(LPIPS("alex", folder).embed(pixels)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", VARIANTS)
def test_the_published_scripts_reduce_without_antialiasing_and_normalise_twice(name: str, folder: Path) -> None:
    pixels = images(2, 128)
    middle = pixels.reshape(2, 32, 4, 32, 4, 3)[:, :, 1:3, :, 1:3].astype(int).sum((2, 4))
    x = torch.from_numpy((middle + 2) // 4).permute(0, 3, 1, 2) / 127.5 - 1  # as OpenCV's, rounded half up
    theirs = installed("torchmetrics.functional.image.lpips")._NoTrainLpips(net="alex")
    expected = float(theirs(x[:1], x[1:], normalize=True))
    embeddings = LPIPS("alex", folder, variant=VARIANTS[name]).embed(pixels)
    assert mean_lpips(embeddings) == pytest.approx(expected, rel=1e-5)
    assert mean_lpips(LPIPS("alex", folder).embed(pixels)) != pytest.approx(expected, rel=1e-2)


def test_each_image_passes_the_network_once(folder: Path) -> None:
    measure, passed = LPIPS("alex", folder), []
    measure.layers[0].register_forward_hook(lambda _, x, __: passed.append(len(x[0])))
    mean_lpips(measure.embed(images(128)))
    assert sum(passed) == 128
    theirs = installed("torchmetrics.functional.image.lpips")._NoTrainLpips(net="alex")
    passed.clear()
    theirs.net.slice1[0].register_forward_hook(lambda _, x, __: passed.append(len(x[0])))
    i, j = torch.triu_indices(128, 128, 1)
    x = to_tensor(images(128))
    with torch.no_grad():
        for start in range(0, len(i), 2048):
            theirs(x[i[start : start + 2048]], x[j[start : start + 2048]])
    assert sum(passed) == 16256  # of one class, pair by pair


def test_copies_are_at_no_distance(folder: Path) -> None:
    pixels = images(4)
    embeddings = LPIPS("alex", folder).embed(pixels[[0, 0, 0]])
    assert mean_lpips(embeddings) == 0
    one, other = LPIPS("alex", folder).embed(pixels[[0, 1]])
    four = torch.stack([one, one, other, other])  # of 6 pairs, 4 are of different images
    assert mean_lpips(four) == pytest.approx(float((one - other).double().square().sum()) * 4 / 6, rel=1e-6)


def test_one_image_has_no_pairs() -> None:
    with pytest.raises(ValueError, match=r"expected shape \(2 or more, D\), got \(1, 5\)"):
        mean_lpips(torch.zeros(1, 5))
