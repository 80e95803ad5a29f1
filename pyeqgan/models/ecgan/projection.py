"""The heads that turn the trunk's features into vectors for contrast."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from pyeqgan.models.ecgan.config import ECGANConfig
from pyeqgan.models.ecgan.trunk import CONTRASTED

FULL_CHANNELS, LEAST_CHANNELS = 256, 64


class ECGANProjection(nn.Module):
    """A head for each of the trunk's contrasted maps: conv1, batch norm, ReLU, conv1 to 256 channels.

    Scaled by the width, but 64 at least (ours): fewer dimensions hold few directions. Needed in training alone.
    """

    def __init__(self, config: ECGANConfig) -> None:
        super().__init__()
        channels = max(config.channels(FULL_CHANNELS), LEAST_CHANNELS)
        self.heads = nn.ModuleList(_head(config.trunk_channels(level), channels) for level in CONTRASTED)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Features (B,C_s,h_s,w_s), coarse to fine, to vectors (B,D,h_s,w_s) of one D; the last ones, if fewer."""
        return [head(f) for head, f in zip(self.heads[-len(features) :], features, strict=True)]


def _head(in_channels: int, out_channels: int) -> nn.Sequential:
    # No bias before the batch norm, which would remove it.
    first = nn.Conv2d(in_channels, in_channels, 1, bias=False)
    return nn.Sequential(first, nn.BatchNorm2d(in_channels), nn.ReLU(), nn.Conv2d(in_channels, out_channels, 1))
