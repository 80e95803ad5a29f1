"""The network that tells which class a generated pixel looks like, for the similarity loss."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from pyeqgan.models.ecgan.config import ECGANConfig
from pyeqgan.models.ecgan.layout import NEGATIVE_SLOPE
from pyeqgan.nn import SkipDecoderBlock

CHANNELS = (32, 64, 128, 128)


class ECGANSegmenter(nn.Module):
    """A small U-Net, trained on real pairs by cross entropy beside the discriminator (ours).

    The paper takes the class probabilities of a generated image from a network that it does not describe. Four levels,
    3×3 convolutions, batch norm, leaky ReLU; needed in training alone.
    """

    def __init__(self, config: ECGANConfig) -> None:
        super().__init__()
        self.config = config
        channels = [config.channels(c) for c in CHANNELS]
        self.encoder = nn.ModuleList(
            [_convolution(3, channels[0], stride=1), *(_convolution(i, o, stride=2) for i, o in pairwise(channels))]
        )
        self.decoder = nn.ModuleList(SkipDecoderBlock(i, o, o, bias=False) for i, o in pairwise(reversed(channels)))
        self.classes = nn.Conv2d(channels[0], config.num_classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B,3,H,W) in [-1, 1] to class logits (B,N_c,H,W)."""
        skips: list[Tensor] = []
        x = images
        for layer in self.encoder:
            x = layer(x)
            skips.append(x)
        for block, skip in zip(self.decoder, reversed(skips[:-1]), strict=True):
            x = block(x, skip)
        logits: Tensor = self.classes(x)
        return logits


def _convolution(in_channels: int, out_channels: int, *, stride: int) -> nn.Sequential:
    convolution = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels), nn.LeakyReLU(NEGATIVE_SLOPE, inplace=True))
