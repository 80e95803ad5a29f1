"""The segmenter: a small encoder-decoder that finds the layout of an image, and whose deepest map says how it looks."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyeqgan.data import to_tensor
from pyeqgan.data.images import Pixels

CHANNELS = (16, 32, 64, 64)
FEATURES = CHANNELS[-1]
MOST_PIXELS = 128 * 128
BATCH = 32


class Segmenter(nn.Module):
    """A U-Net (Ronneberger et al. 2015) of three halvings, for images of one size (ours).

    It is independent of the models it judges: it is trained on real pairs alone, after them and apart from them. Images
    above 128² pixels are averaged down by a whole factor first, and the layout found is enlarged again.

    Buffers that training sets: ``centre`` (64,) and ``scale`` (), by which features are shifted and divided so that
    those of the training images have mean 0 and total variance 1.

    Args:
        image_size: height and width of the images.
        classes: number of classes Nc it tells apart.
    """

    centre: Tensor
    scale: Tensor

    def __init__(self, image_size: tuple[int, int], classes: int) -> None:
        super().__init__()
        height, width = image_size
        factor = 1
        while (height // factor) * (width // factor) > MOST_PIXELS:
            factor += 1
        self.input_size = (height // factor, width // factor)
        self.stem = _convolution(3, CHANNELS[0])
        self.down = nn.ModuleList(
            nn.Sequential(_convolution(i, o, stride=2), _convolution(o, o)) for i, o in pairwise(CHANNELS)
        )
        self.up = nn.ModuleList(_convolution(o + i, i) for i, o in reversed(list(pairwise(CHANNELS))))
        self.head = nn.Conv2d(CHANNELS[0], classes, 1)
        self.register_buffer("centre", torch.zeros(FEATURES))
        self.register_buffer("scale", torch.ones(()))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B,Nc,h,w) at `input_size` and the mean of the deepest map (B,64) of images (B,3,H,W) in [-1,1]."""
        if images.shape[2:] != torch.Size(self.input_size):
            images = F.adaptive_avg_pool2d(images, self.input_size)
        x = self.stem(images.contiguous(memory_format=torch.channels_last))
        skips = []
        for down in self.down:
            skips.append(x)
            x = down(x)
        features = x.mean((2, 3))
        for up, skip in zip(self.up, reversed(skips), strict=True):
            x = up(torch.cat([F.interpolate(x, size=skip.shape[2:], mode="nearest"), skip], 1))
        return self.head(x), features

    @torch.no_grad()
    def look(self, images: Pixels) -> tuple[Tensor, Tensor]:
        """What is where in images uint8 (n,H,W,3), and how they look. Eval mode; each image passes once.

        Returns:
            Labels (n,H,W) int64 and features (n,64) float64, both on the CPU.
        """
        self.eval()
        labels, features = [], []
        for start in range(0, len(images), BATCH):
            batch = to_tensor(images[start : start + BATCH]).to(self.centre.device)
            logits, means = self(batch)
            if logits.shape[2:] != batch.shape[2:]:
                logits = F.interpolate(logits, size=batch.shape[2:], mode="bilinear")
            labels.append(logits.argmax(1).cpu())
            features.append(((means - self.centre) / self.scale).double().cpu())
        return torch.cat(labels), torch.cat(features)


def _convolution(inputs: int, outputs: int, *, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )
