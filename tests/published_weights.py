"""Files of random weights in the format of the published ones, which no test has."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from pyeqgan.errors import UserError
from pyeqgan.evaluation import inception, lpips, weights
from pyeqgan.evaluation.libraries import library


def installed(name: str) -> ModuleType:
    """A module of the `metrics` extra; without it the test is skipped, and says so."""
    try:
        return library(name, option="tests")
    except UserError as error:
        pytest.skip(str(error))


def write_backbone(folder: Path, backbone: str) -> nn.Sequential:
    """Write LPIPS's VGG-16 or AlexNet, and return its features."""
    models = installed("torchvision.models")
    with torch.device("meta"):
        network = {"vgg": models.vgg16, "alex": models.alexnet}[backbone]().features
    network = _drawn(network.to_empty(device="cpu")).eval()
    state = {f"features.{name}": tensor for name, tensor in network.state_dict().items()}
    _write(folder / weights.BACKBONES[backbone].names[0], {**state, "classifier.0.bias": torch.zeros(3)})
    return network


def write_inception(folder: Path) -> nn.Module:
    """Write FID's Inception network, and return torch-fidelity's own."""
    extractor = installed("torch_fidelity.feature_extractor_inceptionv3")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "load", lambda *_, **__: None)
        patch.setattr(nn.Module, "load_state_dict", lambda *_: None)
        network = extractor.FeatureExtractorInceptionV3("fid", ["2048"], feature_extractor_weights_path="none")
    _write(folder / weights.INCEPTION.names[0], _drawn(network).state_dict())
    return network


def accept(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Take the files of a folder for the published ones: their checksums are expected."""

    def like(published: weights.Weights) -> weights.Weights:
        files = [folder / name for name in published.names if (folder / name).exists()]
        sha256 = hashlib.sha256(files[0].read_bytes()).hexdigest() if files else published.sha256
        return dataclasses.replace(published, sha256=sha256[: len(published.sha256)])

    patch.setattr(inception, "INCEPTION", like(weights.INCEPTION))
    patch.setattr(lpips, "BACKBONES", {name: like(w) for name, w in weights.BACKBONES.items()})


def _drawn(network: nn.Module) -> nn.Module:
    """With weights of unit gain: as they are initialised, maps would vanish with depth."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.normal_(module.bias, std=0.1)
    return network


def _write(path: Path, state: dict[str, torch.Tensor]) -> None:
    torch.save(state, path)
