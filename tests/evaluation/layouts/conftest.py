"""Small made-up pairs: three classes of one mean colour, told apart by their texture alone, one random hue an image."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyeqgan.data import to_tensor
from pyeqgan.data.layouts import LayoutImages, LayoutSplit, View, canny
from pyeqgan.data.layouts.images import CENTRE
from pyeqgan.evaluation.layouts import Paint

SIZE = (32, 32)


class Textures:
    """`LayoutImages` in memory: vertical stripes, horizontal stripes and a flat class, in four quarters."""

    class_names = ("upright", "level", "flat")
    num_classes = 3

    def __init__(
        self, count: int, *, size: tuple[int, int] = SIZE, seed: int = 0, ignored: int = 0, instances: bool = False
    ) -> None:
        self.image_size, self.has_instances = size, instances
        self._count, self._seed, self._ignored = count, seed, ignored

    def __len__(self) -> int:
        return self._count

    def name(self, index: int) -> str:
        return f"pair {index}"

    def pair(self, index: int, view: View = CENTRE) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        assert view == CENTRE and 0 <= index < self._count
        rng = np.random.default_rng([self._seed, index])
        height, width = self.image_size
        labels = np.kron(rng.integers(3, size=(2, 2)), np.ones((height // 2, width // 2), np.int64))
        stripes = np.where(np.arange(max(self.image_size)) % 4 < 2, 60, -60)
        texture = np.choose(labels, [stripes[None, :width], stripes[:height, None], np.zeros((1, 1), int)])
        image = (rng.uniform(70, 180, 3) + texture[..., None]).astype(np.uint8)
        labels[: self._ignored] = -1
        image.flags.writeable = labels.flags.writeable = False
        return image, labels

    def instances(self, index: int, view: View = CENTRE) -> NDArray[np.int32] | None:
        return np.arange(32, dtype=np.int32).repeat(32).reshape(SIZE) // 16 if self.has_instances else None


@pytest.fixture(scope="session")
def textures() -> Callable[..., Textures]:
    return Textures


@pytest.fixture(scope="session")
def split() -> LayoutSplit:
    return LayoutSplit(Textures(40), Textures(12, seed=1, ignored=2))


def recall(pairs: LayoutImages, *, shift: int = 0) -> Paint:
    """A painter that knows the real image of each layout, or that of another one, by `shift`; as Canny sees edges."""
    labels = [pairs.pair(index)[1].tobytes() for index in range(len(pairs))]
    assert len(set(labels)) == len(labels)

    def paint(layouts: Tensor, instance_edges: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        at = [(labels.index(layout.numpy().tobytes()) + shift) % len(pairs) for layout in layouts]
        images = np.stack([pairs.pair(index)[0] for index in at])
        return torch.from_numpy(canny(images)).unsqueeze(1), to_tensor(images), to_tensor(images)

    return paint


@pytest.fixture(scope="session")
def painter() -> Callable[..., Paint]:
    return recall
