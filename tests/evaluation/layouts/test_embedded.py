"""The segmenter on the embedded landscapes, as `pyeqgan evaluate` trains it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pyeqgan.data.layouts import open_layouts
from pyeqgan.evaluation.layouts import SegmenterConfig, class_counts, mean_iou, train_segmenter


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_real_images_are_segmented_nearly_perfectly() -> None:
    split = open_layouts("embedded-layouts", image_size=(64, 64))
    network = train_segmenter(split.train, SegmenterConfig(), device=torch.device("cpu"))
    images, labels = zip(*(split.test.pair(index) for index in range(200)), strict=True)
    found, _ = network.look(np.stack(images))
    assert mean_iou(class_counts(found, torch.from_numpy(np.stack(labels)), split.test.num_classes)) >= 0.97
