"""Small ECGANs and layouts, shared by the tests of their parts."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pyeqgan.models import ECGANConfig

CLASSES = 5


def config(**fields: object) -> ECGANConfig:
    small = {"image_height": 16, "image_width": 24, "width": 0.125, "upsamplings": 3}
    return ECGANConfig(CLASSES, **{**small, **fields})


def labels(batch: int = 2, height: int = 16, width: int = 24) -> Tensor:
    """Noise of all classes and ignored pixels."""
    return torch.randint(-1, CLASSES, (batch, height, width))


def outlines(batch: int = 2, height: int = 16, width: int = 24) -> Tensor:
    """Instance edges."""
    return torch.randint(2, (batch, 1, height, width)).float()


def one_hot(labels: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
    """(B,N_c,H,W), zero where a pixel is ignored."""
    return F.one_hot(labels.clamp_min(0), CLASSES).permute(0, 3, 1, 2).to(dtype) * (labels >= 0)[:, None]
