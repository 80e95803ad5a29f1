"""Mean IoU and pixel accuracy, by hand and beside torchmetrics."""

from __future__ import annotations

import math

import pytest
import torch

from pyeqgan.errors import UserError
from pyeqgan.evaluation.layouts import class_counts, class_iou, mean_iou, pixel_accuracy
from pyeqgan.evaluation.libraries import library


def test_by_hand() -> None:
    labels = torch.tensor([[[0, 0, 1], [1, 1, -1]], [[2, 2, 2], [0, -1, -1]]])
    found = torch.tensor([[[0, 1, 1], [1, 0, 3]], [[2, 2, 0], [0, 2, 1]]])
    counts = class_counts(found, labels, 4)
    assert counts.tolist() == [
        [[1, 2, 2], [2, 3, 3], [0, 0, 0], [0, 0, 0]],
        [[1, 2, 1], [0, 0, 0], [2, 2, 3], [0, 0, 0]],
    ]
    assert class_iou(counts)[:3].tolist() == pytest.approx([2 / 5, 2 / 4, 2 / 3])
    assert class_iou(counts)[3].isnan()  # found on an ignored pixel only: in neither
    assert mean_iou(counts) == pytest.approx((2 / 5 + 1 / 2 + 2 / 3) / 3)
    assert pixel_accuracy(counts) == pytest.approx(6 / 9)
    # A class that is found where it is not counts against the mean, with an IoU of 0.
    assert mean_iou(class_counts(torch.tensor([[[0, 1]]]), torch.tensor([[[0, 0]]]), 2)) == pytest.approx(0.25)


def test_as_torchmetrics_has_it() -> None:
    try:
        metrics = library("torchmetrics.classification", option="tests")
    except UserError as error:
        pytest.skip(str(error))
    labels, found = torch.randint(-1, 7, (5, 9, 11)), torch.randint(0, 7, (5, 9, 11))
    counts = class_counts(found, labels, 7)
    jaccard = metrics.MulticlassJaccardIndex(7, average="none", ignore_index=-1)
    assert torch.allclose(jaccard(found, labels).double(), class_iou(counts), atol=1e-6)
    accuracy = metrics.MulticlassAccuracy(7, average="micro", ignore_index=-1)
    assert float(accuracy(found, labels)) == pytest.approx(pixel_accuracy(counts), abs=1e-6)


def test_nothing_but_ignored_pixels_has_no_number() -> None:
    counts = class_counts(torch.zeros(2, 3, 3, dtype=torch.long), torch.full((2, 3, 3), -1), 2)
    assert math.isnan(mean_iou(counts)) and math.isnan(pixel_accuracy(counts))


def test_wrong_arguments_are_named() -> None:
    labels = torch.zeros(1, 2, 2, dtype=torch.long)
    with pytest.raises(ValueError, match=r"two \(n,H,W\) of one shape, got \(1, 2, 2\) and \(1, 2, 3\)"):
        class_counts(labels, torch.zeros(1, 2, 3, dtype=torch.long), 2)
    with pytest.raises(ValueError, match="found: expected 0 to 1, got 2"):
        class_counts(labels + 2, labels, 2)
    with pytest.raises(ValueError, match="labels: expected 0 to 1, got -2"):
        class_counts(labels, labels - 2, 2)
