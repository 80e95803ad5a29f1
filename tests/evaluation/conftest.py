"""A fresh seed for every test, and small made-up classes: each a colour and a stripe, each image a phase and noise."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from sampling import seed_everything

from pyeqgan.data import Split


@pytest.fixture(autouse=True)
def seed() -> int:
    return seed_everything()


class Stripes:
    """`ImageClasses` in memory; an image depends on (seed, class name, image) alone."""

    def __init__(self, counts: list[int], *, image_size: int = 32, seed: int = 0, first: int = 0) -> None:
        self.image_size = image_size
        self.class_names = tuple(f"stripes {first + c}" for c in range(len(counts)))
        self._counts, self._seed, self._first = counts, seed, first

    def __len__(self) -> int:
        return len(self._counts)

    def count(self, class_index: int) -> int:
        return self._counts[class_index]

    def image(self, class_index: int, image_index: int) -> NDArray[np.uint8]:
        if not 0 <= image_index < self._counts[class_index]:
            raise IndexError(image_index)
        species = np.random.default_rng([self._seed, self._first + class_index])
        colour, frequency = species.uniform(40, 215, 3), species.uniform(0.2, 1.2)
        rng = np.random.default_rng([self._seed, self._first + class_index, image_index])
        wave = 30 * np.sin(frequency * np.arange(self.image_size) + rng.uniform(0, 6))
        noise = rng.normal(0, 12, (self.image_size, self.image_size, 3))
        image = (colour + wave[:, None, None] + noise).clip(0, 255).astype(np.uint8)
        image.flags.writeable = False
        return image


@pytest.fixture(scope="session")
def stripes() -> Callable[..., Stripes]:
    return Stripes


@pytest.fixture(scope="session")
def split() -> Split:
    return Split(seen=Stripes([20] * 6), unseen=Stripes([24, 20, 30], first=100))
