"""The feature network on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from pyeqgan.data import ImageClasses
from pyeqgan.errors import UserError
from pyeqgan.evaluation.classify import FeatureConfig
from pyeqgan.evaluation.feature_cache import feature_network, load, save
from pyeqgan.evaluation.features import FeatureNetwork

QUICK = FeatureConfig(steps=2, batch_size=8)


class Steps(list[int]):
    """A progress that remembers the steps it was told."""

    def __call__(self, what: str, done: int, total: int) -> None:
        self.append(done)


def get(seen: ImageClasses, folder: Path, config: FeatureConfig = QUICK) -> tuple[FeatureNetwork, Path, int]:
    steps = Steps()
    network, path = feature_network(seen, config, folder, device=torch.device("cpu"), progress=steps)
    return network, path, len(steps)


def test_it_is_trained_once(tmp_path: Path, stripes: Callable, seed: int) -> None:
    seen = stripes([8, 8])
    trained, path, steps = get(seen, tmp_path)
    assert steps == 2
    again, same_path, steps = get(seen, tmp_path)
    assert steps == 0
    assert same_path == path
    images = np.random.default_rng(seed).integers(0, 256, (5, 32, 32, 3), np.uint8)
    assert torch.equal(trained.features(images), again.features(images))
    assert torch.equal(trained.accuracy, again.accuracy)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]  # no unfinished file stays behind


def test_its_name_tells_data_and_configuration_apart(tmp_path: Path, stripes: Callable) -> None:
    variants = [
        get(stripes([8, 8]), tmp_path),
        get(stripes([8, 9]), tmp_path),
        get(stripes([8, 8], seed=1), tmp_path),
        get(stripes([8, 8], first=1), tmp_path),
        get(stripes([8, 8], image_size=48), tmp_path),
        get(stripes([8, 8]), tmp_path, FeatureConfig(steps=2, batch_size=8, seed=1)),
    ]
    assert len({path for _, path, _ in variants}) == len(variants)


def truncated(data: bytes) -> bytes:
    return data[: len(data) // 2]


def empty(data: bytes) -> bytes:
    return b""


def one_bit(data: bytes) -> bytes:
    return data[:-1000] + bytes([data[-1000] ^ 1]) + data[-999:]


def not_ours(data: bytes) -> bytes:
    return b"not a safetensors file at all"


@pytest.mark.parametrize("damage", [truncated, empty, one_bit, not_ours])
def test_damage_is_told_and_left_alone(tmp_path: Path, stripes: Callable, damage: Callable) -> None:
    seen = stripes([8, 8])
    _, path, _ = get(seen, tmp_path)
    damaged = damage(path.read_bytes())
    path.write_bytes(damaged)
    with pytest.raises(UserError, match=f"{path.name} is damaged: move it away to have it trained again"):
        get(seen, tmp_path)
    assert path.read_bytes() == damaged
    path.unlink()
    assert get(seen, tmp_path)[2] == 2


def test_a_file_without_checksum_is_damaged(tmp_path: Path) -> None:
    import safetensors.torch

    path = tmp_path / "features.safetensors"
    safetensors.torch.save_file({"a": torch.zeros(3)}, path)
    with pytest.raises(UserError, match="is damaged"):
        load(path)


def test_round_trip_of_every_kind_of_tensor(tmp_path: Path) -> None:
    state = {"a": torch.randn(3, 4).T, "b": torch.tensor(7), "c": torch.zeros(0), "d": torch.randn(2, 3).bfloat16()}
    save(tmp_path / "x", state)
    back = load(tmp_path / "x")
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot write .*missing"):
        save(tmp_path / "missing" / "x", {"a": torch.zeros(1)})
