"""Edges drawn and edges there are: F1 of two sets of edge pixels that may miss each other by a few pixels."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

TOLERANCE = 2


def edge_counts(drawn: Tensor, target: Tensor, tolerance: int = TOLERANCE) -> Tensor:
    """Edge pixels in each image, and how many of them have one of the other set near them.

    Near is within a disc of radius `tolerance`, by dilation (as in DAVIS, Perazzi et al. 2016), so that several
    pixels may be matched by one.

    Args:
        drawn: (n,H,W) bool.
        target: (n,H,W) bool.
        tolerance: in pixels, >= 0.

    Returns:
        (n,4) int64: drawn pixels near a target, drawn pixels, target pixels near a drawn one, target pixels.

    Raises:
        ValueError: other shapes or types.
    """
    for name, x in (("drawn", drawn), ("target", target)):
        if x.dim() != 3 or x.dtype != torch.bool or x.shape != drawn.shape:
            raise ValueError(f"edge_counts: {name}: expected (n,H,W) bool, got {tuple(x.shape)} {x.dtype}")
    sets = (drawn & dilated(target, tolerance), drawn, target & dilated(drawn, tolerance), target)
    return torch.stack([x.sum((1, 2)) for x in sets], 1)


def dilated(edges: Tensor, radius: int) -> Tensor:
    """Pixels (n,H,W) bool within a disc around some edge pixel."""
    reach = torch.arange(-radius, radius + 1)
    disc = (reach[:, None].square() + reach.square() <= radius**2).float()
    return F.conv2d(edges[:, None].float(), disc[None, None], padding=radius)[:, 0] > 0.5


def edge_precision(counts: Tensor) -> float:
    """Share of all drawn pixels that are near a target; NaN if none is drawn. counts: (n,4), see `edge_counts`."""
    near, drawn, _, _ = counts.sum(0).tolist()
    return near / drawn if drawn else math.nan


def edge_recall(counts: Tensor) -> float:
    """Share of all target pixels that are near a drawn one; NaN if there is no target. counts: see `edge_counts`."""
    _, _, met, target = counts.sum(0).tolist()
    return met / target if target else math.nan


def edge_f1(counts: Tensor) -> float:
    """Harmonic mean of precision and recall: 0 if one of the sets alone is empty, NaN if both are."""
    precision, recall = edge_precision(counts), edge_recall(counts)
    if math.isnan(precision) and math.isnan(recall):
        return math.nan
    if math.isnan(precision) or math.isnan(recall) or precision + recall == 0:
        return 0.0
    return 2 * precision * recall / (precision + recall)
