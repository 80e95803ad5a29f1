"""The feature network: a small residual classifier whose last layer but one says how images look."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyeqgan.data import to_tensor
from pyeqgan.data.images import Pixels

CHANNELS = (16, 32, 64, 64)
FEATURES = CHANNELS[-1]
LARGEST_INPUT = 64
BATCH = 128


class FeatureNetwork(nn.Module):
    """A residual network (He et al. 2015) of three blocks, for images of one size (ours).

    64 features: the covariance of so many can be estimated from the few hundred images of a small unseen set. Images
    above 64² are averaged down to 64² first, so that finer blur or texture escapes it.

    Buffers that training sets: ``centre`` (64,) and ``scale`` (), by which features are shifted and divided so that
    held-out images of the seen classes have mean 0 and total variance 1; ``accuracy`` (), the share of those that it
    classifies rightly.

    Args:
        image_size: height and width S of the images.
        classes: number of classes it tells apart.
    """

    centre: Tensor
    scale: Tensor
    accuracy: Tensor

    def __init__(self, image_size: int, classes: int) -> None:
        super().__init__()
        self.input_size = min(image_size, LARGEST_INPUT)
        stride = 1 if self.input_size <= 32 else 2
        self.stem = nn.Sequential(
            nn.Conv2d(3, CHANNELS[0], 3, stride, 1, bias=False), nn.BatchNorm2d(CHANNELS[0]), nn.ReLU()
        )
        self.blocks = nn.Sequential(*(ResidualBlock(i, o) for i, o in pairwise(CHANNELS)))
        self.head = nn.Linear(FEATURES, classes)
        self.register_buffer("centre", torch.zeros(FEATURES))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("accuracy", torch.zeros((), dtype=torch.float64))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B,classes) of images (B,3,S,S) in [-1,1]."""
        logits: Tensor = self.head(self.penultimate(images))
        return logits

    def penultimate(self, images: Tensor) -> Tensor:
        """The last layer but one (B,64), as the classifier sees it."""
        if images.shape[-1] > self.input_size:
            images = F.adaptive_avg_pool2d(images, self.input_size)
        x: Tensor = self.blocks(self.stem(images.contiguous(memory_format=torch.channels_last)))  # a third faster
        return x.mean((2, 3))

    @torch.no_grad()
    def features(self, images: Pixels) -> Tensor:
        """Features of images uint8 (n,S,S,3): (n,64) float64 on the CPU. Eval mode; each image passes once."""
        self.eval()
        parts = []
        for start in range(0, len(images), BATCH):
            batch = to_tensor(images[start : start + BATCH]).to(self.centre.device)
            parts.append((self.penultimate(batch) - self.centre) / self.scale)
        return torch.cat(parts).double().cpu()


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions beside an average and a 1×1 convolution; halves the map."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut = nn.Sequential(
            nn.AvgPool2d(2, ceil_mode=True), nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B,inputs,H,W) to (B,outputs,⌈H/2⌉,⌈W/2⌉)."""
        return F.relu(self.residual(x) + self.shortcut(x))
