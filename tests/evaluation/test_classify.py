"""Training the feature network, and what its features are."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from pyeqgan.data import Split
from pyeqgan.errors import UserError
from pyeqgan.evaluation.classify import (
    FeatureConfig,
    _shifted,
    _training_count,
    read_images,
    recognised,
    train_feature_network,
)
from pyeqgan.evaluation.features import BATCH, FEATURES, FeatureNetwork

QUICK = FeatureConfig(steps=30, batch_size=24)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def network(split: Split) -> FeatureNetwork:
    return train_feature_network(split.seen, QUICK, device=CPU)


def test_it_learns_to_tell_the_seen_classes_apart(network: FeatureNetwork) -> None:
    assert float(network.accuracy) > 0.8  # chance is 1/6


def test_features_of_held_out_images_are_centred_and_of_unit_variance(split: Split, network: FeatureNetwork) -> None:
    held_out = [read_images(split.seen, c, range(_training_count(split.seen, c), 20)) for c in range(6)]
    features = torch.cat([network.features(images) for images in held_out])
    assert features.shape == (12, FEATURES)
    assert features.dtype == torch.float64
    assert features.mean(0).abs().max() < 1e-5
    assert float(features.square().sum(1).mean()) == pytest.approx(1, rel=1e-4)


def test_the_same_seed_gives_the_same_network_and_leaves_torch_alone(split: Split) -> None:
    quick = FeatureConfig(steps=3, batch_size=8, seed=4)
    before = torch.get_rng_state()
    first, second = (train_feature_network(split.seen, quick, device=CPU).state_dict() for _ in range(2))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = train_feature_network(split.seen, FeatureConfig(steps=3, batch_size=8, seed=5), device=CPU).state_dict()
    assert any(not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("size", [32, 48, 64, 128, 256])
def test_every_image_size(size: int) -> None:
    network = FeatureNetwork(size, 5)
    assert network(torch.rand(2, 3, size, size) * 2 - 1).shape == (2, 5)
    assert network.features(np.zeros((3, size, size, 3), np.uint8)).shape == (3, FEATURES)


def test_features_do_not_depend_on_the_company(seed: int) -> None:
    network = FeatureNetwork(32, 5)
    images = np.random.default_rng(seed).integers(0, 256, (BATCH + 5, 32, 32, 3), np.uint8)
    together, alone = network.features(images), network.features(images[BATCH + 2 : BATCH + 3])
    assert torch.allclose(together[BATCH + 2], alone[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("down", "right"), [(0, 0), (2, -3), (-4, 1), (4, 4)])
def test_shift_moves_the_image_and_reflects_its_border(seed: int, down: int, right: int) -> None:
    images = np.random.default_rng(seed).integers(0, 256, (2, 9, 9, 3), np.uint8)
    moved = _shifted(images, down, right)
    assert moved.shape == images.shape
    for y in range(9):
        for x in range(9):
            source = [8 - abs(8 - abs(v)) for v in (y - down, x - right)]
            assert (moved[:, y, x] == images[:, source[0], source[1]]).all()


def test_recognised_counts_the_nearest_mean() -> None:
    means = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    features = torch.tensor([[1.0, 1.0], [9.0, 1.0], [8.0, 0.0], [-4.0, -4.0]])
    assert [recognised(features, means, c) for c in range(3)] == [0.5, 0.5, 0.0]


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ([5], "1 seen classes, expected at least 2"),
        ([5, 1], "seen class 'stripes 1' has 1 images, expected at least 2"),
    ],
)
def test_too_little_to_learn_from(stripes: Callable, counts: list[int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        train_feature_network(stripes(counts), QUICK, device=CPU)
