"""The painter of class mean colours."""

from __future__ import annotations

import numpy as np
import torch

from pyeqgan.data import to_tensor
from pyeqgan.evaluation.layouts import mean_colours, paint_means


class Two:
    """Two images of two pixels."""

    num_classes = 3
    pixels = np.array([[[[255, 0, 0], [0, 0, 0]]], [[[51, 0, 255], [255, 255, 255]]]], np.uint8)
    labels = np.array([[[0, 1]], [[0, -1]]])

    def __len__(self) -> int:
        return 2

    def pair(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return self.pixels[index], self.labels[index]


def test_each_class_has_the_mean_of_its_pixels() -> None:
    pairs = Two()
    colours = mean_colours(pairs)
    overall = to_tensor(pairs.pixels).movedim(1, 3).reshape(4, 3).double().mean(0)
    expected = torch.tensor([[153, 0, 127.5], [0, 0, 0]], dtype=torch.float64) / 127.5 - 1
    assert torch.allclose(colours[:2], expected, atol=1e-6)
    assert torch.allclose(colours[2:], overall.expand(2, 3))  # a class without pixels, and ignored ones

    image = paint_means(torch.tensor([[[1, 0], [-1, 2]]]), colours)
    assert image.shape == (1, 3, 2, 2) and image.dtype == torch.float32
    assert torch.equal(image[0, :, 0, 0], colours[1].float()) and torch.equal(image[0, :, 0, 1], colours[0].float())
    assert torch.equal(image[0, :, 1], overall.float()[:, None].expand(3, 2))
