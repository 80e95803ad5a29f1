"""The nearest training image, against a comparison of every pair."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sampling import seed_everything

from pyeqgan.data.images import Pixels
from pyeqgan.report import nearest_images
from pyeqgan.report.nearest import AT_ONCE


class Classes:
    """Images in memory."""

    def __init__(self, *classes: Pixels) -> None:
        self._classes = classes
        self.class_names = [f"class {index}" for index in range(len(classes))]
        self.image_size = classes[0].shape[1]

    def __len__(self) -> int:
        return len(self._classes)

    def count(self, class_index: int) -> int:
        return len(self._classes[class_index])

    def image(self, class_index: int, image_index: int) -> Pixels:
        return self._classes[class_index][image_index]


def random_images(count: int, side: int) -> Pixels:
    return torch.randint(256, (count, side, side, 3), dtype=torch.uint8).numpy()


@pytest.mark.parametrize("side", [32, 48, 64])
def test_it_is_the_nearest_of_all_and_of_their_mirror_images(side: int) -> None:
    seed_everything()
    images, classes = random_images(5, side), Classes(random_images(7, side), random_images(3, side))
    found = nearest_images(images, classes)
    every = [(name, c.astype(float)) for i, name in enumerate(classes.class_names) for c in classes._classes[i]]
    every += [(name, image[:, ::-1]) for name, image in every]
    for query, image in enumerate(images):

        def distance(other: np.ndarray, image: Pixels = image) -> float:
            pair = torch.from_numpy(np.stack([image.astype(float), other]) / 127.5 - 1).permute(0, 3, 1, 2)
            small = torch.nn.functional.interpolate(pair, (32, 32), mode="area")
            return float((small[0] - small[1]).abs().mean())

        distances = [distance(other) for _, other in every]
        best = int(np.argmin(distances))
        assert float(found.distances[query]) == pytest.approx(distances[best], abs=1e-7)
        assert found.class_names[query] == every[best][0]
        assert (found.images[query] == every[best][1]).all()


def test_a_copy_is_found_whichever_way_round_and_however_many_there_are() -> None:
    seed_everything()
    many = random_images(AT_ONCE + 9, 32)
    told = []
    found = nearest_images(
        np.stack([many[-1], many[3][:, ::-1]]), Classes(random_images(2, 32), many), lambda *now: told.append(now)
    )
    assert found.distances.tolist() == [0, 0] and found.class_names == ["class 1"] * 2
    assert (found.images[0] == many[-1]).all() and (found.images[1] == many[3][:, ::-1]).all()
    assert told[-1] == (AT_ONCE + 11, AT_ONCE + 11)
