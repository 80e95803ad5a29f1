"""What stands on the trunk's features: edge and image branch, edge transfer, and the semantic preserving module."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyeqgan.models.ecgan.config import TRUNK_CHANNELS, ECGANConfig
from pyeqgan.models.ecgan.layout import NEGATIVE_SLOPE, JointConv2d, Layout


class Branches(nn.Module):
    """Edge and image generator: 3×3 convolutions of the activated map before, 64 → 32 → 16 → 8 → 3 channels.

    Attention guided edge transfer after each: F_i ← F_i·σ(F_e) + F_i, and likewise for the images. There it comes
    before the image's tanh (ours), which keeps the image in [-1, 1].
    """

    def __init__(self, config: ECGANConfig) -> None:
        super().__init__()
        channels = [*(config.channels(TRUNK_CHANNELS >> i) for i in range(4)), 3]
        self.transfer = config.contains("transfer")
        self.image = _convolutions(channels)
        self.edge = _convolutions(channels) if config.contains("edge") else None

    def forward(self, activated: Tensor) -> tuple[Tensor | None, Tensor]:
        """From the activated features to edges I'_e and images I', (B,3,H,W) in [-1, 1]."""
        if self.edge is None:
            return None, torch.tanh(_run(self.image, activated)[-1])
        of_edges = _run(self.edge, activated)
        edges = torch.tanh(of_edges.pop())
        attention = [*of_edges, edges] if self.transfer else []
        return edges, torch.tanh(_run(self.image, activated, attention)[-1])


class SemanticPreserving(nn.Module):
    """Refine the image by its layout.

    F_c = conv3(lrelu([F, I', I'_e, S])), N_c maps; γ = σ(mean F_c); I'' = tanh(conv3(conv3(F_c·(1 + γ)))).
    The channels between the last two convolutions, 64, and the leaky ReLU there are (ours).
    """

    def __init__(self, config: ECGANConfig) -> None:
        super().__init__()
        features = config.channels(TRUNK_CHANNELS)
        self.joint = JointConv2d(config, [features, 3, 3], config.num_classes)
        self.hidden = nn.Conv2d(config.num_classes, features, 3, padding=1)
        self.to_image = nn.Conv2d(features, 3, 3, padding=1)

    def forward(self, activated: Tensor, images: Tensor, edges: Tensor, layout: Layout) -> Tensor:
        """Return I'' (B,3,H,W) in [-1, 1]; ``activated`` is lrelu(F), and the layout is its own leaky ReLU."""
        maps = self.joint(layout, activated, _activate(images), _activate(edges))
        gates = torch.sigmoid(maps.mean((2, 3), keepdim=True))
        return torch.tanh(self.to_image(_activate(self.hidden(maps * (1 + gates)))))


def _convolutions(channels: list[int]) -> nn.ModuleList:
    return nn.ModuleList(nn.Conv2d(i, o, 3, padding=1) for i, o in pairwise(channels))


def _run(convolutions: nn.ModuleList, activated: Tensor, attention: list[Tensor] | None = None) -> list[Tensor]:
    """The maps of a branch; each is amplified where that of the other branch is high."""
    maps: list[Tensor] = []
    for i, convolution in enumerate(convolutions):
        x = convolution(_activate(maps[-1]) if maps else activated)
        maps.append(torch.addcmul(x, x, attention[i].sigmoid()) if attention else x)
    return maps


def _activate(x: Tensor) -> Tensor:
    return F.leaky_relu(x, NEGATIVE_SLOPE)
