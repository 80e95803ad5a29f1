"""How far the labels a segmenter finds agree with the layout, from counts of pixels image by image."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyeqgan.data.layouts import IGNORED


def class_counts(found: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Pixels of each class in each image, where the layout says anything.

    Args:
        found: (n,H,W) int64 in [0,classes).
        labels: (n,H,W) int64 in [0,classes), or −1 where pixels are ignored.
        classes: their number Nc.

    Returns:
        (n,Nc,3) int64: pixels of the class in both, in `found`, and in `labels`.

    Raises:
        ValueError: other shapes, or a label out of range.
    """
    if found.dim() != 3 or found.shape != labels.shape:
        raise ValueError(
            f"class_counts: expected two (n,H,W) of one shape, got {tuple(found.shape)} and {tuple(labels.shape)}"
        )
    told = labels != IGNORED
    for name, x in (("found", found), ("labels", labels)):
        if (bad := told & ((x < 0) | (x >= classes))).any():
            raise ValueError(f"class_counts: {name}: expected 0 to {classes - 1}, got {int(x[bad][0])}")
    image = torch.arange(len(labels))[:, None, None].expand_as(labels)

    def count(x: Tensor, where: Tensor) -> Tensor:
        cells = image[where] * classes + x[where]
        return torch.bincount(cells, minlength=len(labels) * classes).view(len(labels), classes)

    return torch.stack([count(labels, told & (found == labels)), count(found, told), count(labels, told)], 2)


def class_iou(counts: Tensor) -> Tensor:
    """Intersection over union of each class over all images (Everingham et al. 2010).

    Args:
        counts: (n,Nc,3), see `class_counts`.

    Returns:
        (Nc,) float64; NaN for a class that is neither in the layouts nor was found.
    """
    both, found, labels = counts.sum(0).double().unbind(1)
    return both / (found + labels - both)


def mean_iou(counts: Tensor) -> float:
    """Mean of `class_iou` over the classes that have one; NaN if all pixels are ignored."""
    return float(class_iou(counts).nanmean())


def pixel_accuracy(counts: Tensor) -> float:
    """Share of the pixels of all images whose class is found; NaN if all are ignored. counts: see `class_counts`."""
    both, _, labels = counts.sum((0, 1)).tolist()
    return both / labels if labels else math.nan
