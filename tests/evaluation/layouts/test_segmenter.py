"""The segmenter: what it learns, what it takes, and that it is kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from pyeqgan.data.layouts import LayoutImages
from pyeqgan.errors import UserError
from pyeqgan.evaluation.layouts import Segmenter, SegmenterConfig, class_counts, mean_iou, train_segmenter
from pyeqgan.evaluation.layouts.training import segmenter

QUICK = SegmenterConfig(steps=2, batch_size=4)
CPU = torch.device("cpu")


def seen(pairs: LayoutImages) -> tuple[np.ndarray, torch.Tensor]:
    images, labels = zip(*(pairs.pair(index) for index in range(len(pairs))), strict=True)
    return np.stack(images), torch.from_numpy(np.stack(labels))


def test_it_learns_textures_and_only_from_what_is_told(textures: Callable) -> None:
    network = train_segmenter(
        textures(40, ignored=4), SegmenterConfig(steps=80, batch_size=8, learning_rate=1e-2), device=CPU
    )
    images, labels = seen(textures(10, seed=1))
    found, features = network.look(images)
    assert mean_iou(class_counts(found, labels, 3)) > 0.85
    assert found.shape == labels.shape and found.dtype == torch.int64
    assert features.shape == (10, 64) and features.dtype == torch.float64
    own = network.look(seen(textures(40, ignored=4))[0])[1]
    assert torch.allclose(own.mean(0), torch.zeros(64).double(), atol=1e-4)
    assert float(own.square().sum(1).mean()) == pytest.approx(1, abs=1e-3)


def test_the_seed_decides(textures: Callable) -> None:
    pairs = textures(6)
    states = [train_segmenter(pairs, SegmenterConfig(2, 4, seed=seed), device=CPU).state_dict() for seed in (0, 0, 1)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not torch.equal(states[0]["head.weight"], states[2]["head.weight"])
    assert torch.isfinite(states[0]["scale"])


def test_pairs_that_tell_nothing_do_no_harm(textures: Callable) -> None:
    state = train_segmenter(textures(3, ignored=32), QUICK, device=CPU).state_dict()
    assert all(tensor.isfinite().all() for tensor in state.values())


@pytest.mark.parametrize(
    ("size", "inside"), [((32, 32), (32, 32)), ((34, 30), (34, 30)), ((128, 130), (64, 65)), ((64, 768), (32, 384))]
)
def test_images_of_any_size(size: tuple[int, int], inside: tuple[int, int]) -> None:
    network = Segmenter(size, 5).eval()
    assert network.input_size == inside
    images = np.random.default_rng(0).integers(0, 256, (2, *size, 3), np.uint8)
    with torch.no_grad():
        logits, _ = network(torch.zeros(2, 3, *size))
    assert logits.shape == (2, 5, *inside)
    labels, features = network.look(images)
    assert labels.shape == (2, *size) and features.shape == (2, 64)


def test_large_images_are_learned_on_the_smaller_grid(textures: Callable) -> None:
    network = train_segmenter(textures(4, size=(144, 160)), SegmenterConfig(1, 2), device=CPU)
    assert network.input_size == (72, 80)


def test_what_cannot_be_learned_from_is_told(textures: Callable) -> None:
    with pytest.raises(UserError, match="1 training pairs, expected at least 2"):
        train_segmenter(textures(1), QUICK, device=CPU)

    class Same(type(textures(3))):  # type: ignore[misc]
        def pair(self, index: int, view: object = None) -> tuple[np.ndarray, np.ndarray]:
            return np.zeros((32, 32, 3), np.uint8), np.zeros((32, 32), np.int64)

    with pytest.raises(UserError, match="training images all look the same"):
        train_segmenter(Same(3), QUICK, device=CPU)


def get(pairs: LayoutImages, folder: Path, config: SegmenterConfig = QUICK) -> tuple[Segmenter, Path, int]:
    steps: list[int] = []
    network, path = segmenter(pairs, config, folder, device=CPU, progress=lambda what, done, total: steps.append(done))
    return network, path, len(steps)


def test_it_is_trained_once(tmp_path: Path, textures: Callable) -> None:
    pairs = textures(4)
    trained, path, steps = get(pairs, tmp_path)
    again, same_path, more = get(pairs, tmp_path)
    assert (steps, more) == (2, 0) and same_path == path
    images, _ = seen(pairs)
    for a, b in zip(trained.look(images), again.look(images), strict=True):
        assert torch.equal(a, b)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_its_name_tells_data_and_configuration_apart(tmp_path: Path, textures: Callable) -> None:
    variants = [
        get(textures(4), tmp_path),
        get(textures(5), tmp_path),
        get(textures(4, seed=1), tmp_path),
        get(textures(4, ignored=1), tmp_path),
        get(textures(4, size=(48, 32)), tmp_path),
        get(textures(4), tmp_path, SegmenterConfig(steps=2, batch_size=4, seed=1)),
    ]
    assert len({path for _, path, _ in variants}) == len(variants)


def test_damage_is_told_and_left_alone(tmp_path: Path, textures: Callable) -> None:
    _, path, _ = get(textures(4), tmp_path)
    data = path.read_bytes()
    damaged = data[:-1000] + bytes([data[-1000] ^ 1]) + data[-999:]
    path.write_bytes(damaged)
    with pytest.raises(UserError, match=f"segmenter .*{path.name} is damaged: move it away to have it trained again"):
        get(textures(4), tmp_path)
    assert path.read_bytes() == damaged
