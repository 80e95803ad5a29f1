"""The perceptual distance of pix2pixHD and SPADE, for whoever has VGG's weights."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyeqgan.evaluation.lpips import load_backbone

# The first rectification of each of VGG's five stages, and how much it counts.
LAYERS = {1: 1 / 32, 6: 1 / 16, 11: 1 / 8, 18: 1 / 4, 25: 1.0}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, for values in [0, 1]


class PerceptualDistance(nn.Module):
    """Σ_l w_l mean |f_l(x) - f_l(y)| with VGG's features f (Johnson et al., ECCV 2016; pix2pixHD's layers and weights).

    VGG-16 (ours: the file that LPIPS needs, too), where the published codes have VGG-19. It does not learn.

    Args:
        folder: where VGG's weights are looked for first; nothing is downloaded.

    Raises:
        UserError: the weights are not found, or torchvision is not installed.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, folder: Path | None = None) -> None:
        super().__init__()
        layers, _ = load_backbone("vgg", folder, option="--perceptual-weight")
        self.layers = nn.Sequential(*list(layers)[: max(LAYERS) + 1]).requires_grad_(False)
        for layer in self.layers:
            if isinstance(layer, nn.ReLU):
                layer.inplace = False  # the maps before are compared
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(STD)[:, None, None], persistent=False)

    def forward(self, generated: Tensor, real: Tensor) -> Tensor:
        """The distance of images (B,3,H,W) in [-1, 1], 0-d, in at least float32; no gradient to the real ones."""
        x, y = ((images / 2 + 0.5 - self.mean) / self.std for images in (generated, real))
        total = torch.zeros((), device=x.device)
        for index, layer in enumerate(self.layers):
            x = layer(x)
            with torch.no_grad():
                y = layer(y)
            if index in LAYERS:
                total = total + LAYERS[index] * F.l1_loss(x.float(), y.float())
        return total
