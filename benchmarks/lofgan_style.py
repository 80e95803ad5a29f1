"""LoFGAN's networks as published code writes them, for the tests and the measurement of `pyeqgan.patch.accelerate`.

Ours, after the paper (ICCV 2021): layers in blocks that decide in their forward what comes first, spectral norm by
torch's hooks, a fusion with Python's random numbers. Widths scale by one factor.
"""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Fake(NamedTuple):
    """What the generator returns."""

    images: Tensor


class ConvBlock(nn.Module):
    """Padding, convolution, norm and activation, the activation last or first."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        stride: int = 1,
        *,
        norm: str = "none",
        activation: str = "lrelu",
        activation_first: bool = False,
    ) -> None:
        super().__init__()
        self.activation_first = activation_first
        self.pad = nn.ReflectionPad2d(kernel // 2)
        conv = nn.Conv2d(in_channels, out_channels, kernel, stride)
        self.conv = nn.utils.spectral_norm(conv) if norm == "sn" else conv
        self.norm = nn.BatchNorm2d(out_channels) if norm == "bn" else None
        self.activation = {"lrelu": nn.LeakyReLU(0.2), "tanh": nn.Tanh(), "none": None}[activation]

    def forward(self, x: Tensor) -> Tensor:
        """The block's layers in its order."""
        if self.activation_first and self.activation:
            x = self.activation(x)
        x = self.conv(self.pad(x))
        if self.norm:
            x = self.norm(x)
        if self.activation and not self.activation_first:
            x = self.activation(x)
        return x


class ResidualBlock(nn.Module):
    """Two activation-first convolutions beside a shortcut."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.learned_shortcut = in_channels != out_channels
        self.conv_0 = ConvBlock(in_channels, out_channels, 3, norm="sn", activation_first=True)
        self.conv_1 = ConvBlock(out_channels, out_channels, 3, norm="sn", activation_first=True)
        if self.learned_shortcut:
            self.conv_s = nn.Conv2d(in_channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """The sum of both ways."""
        shortcut = self.conv_s(x) if self.learned_shortcut else x
        return shortcut + self.conv_1(self.conv_0(x))


class Discriminator(nn.Module):
    """A convolution, four residual blocks with pools, a last one, two heads."""

    def __init__(self, classes: int, width: float = 1.0) -> None:
        super().__init__()
        channels = [round(width * (64 << i)) for i in range(5)]
        layers: list[nn.Module] = [ConvBlock(3, channels[0], 5, norm="sn", activation="none")]
        for i, o in pairwise(channels):
            layers += [ResidualBlock(i, o), nn.ReflectionPad2d(1), nn.AvgPool2d(3, 2)]
        self.features = nn.Sequential(*layers, ResidualBlock(channels[-1], channels[-1]))
        self.adversarial = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels[-1], 1, 1))
        self.classes = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels[-1], classes, 1))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Adversarial logits (N,) and class logits (N,classes)."""
        features = self.features(images)
        return self.adversarial(features).flatten(), self.classes(features).flatten(1)


class Encoder(nn.Module):
    """One convolution at full size and four that halve the map."""

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        channels = [3, *(round(width * c) for c in (32, 64, 128, 128, 128))]
        self.model = nn.Sequential(
            *(
                ConvBlock(i, o, 5 if n == 0 else 3, 1 if n == 0 else 2, norm="bn")
                for n, (i, o) in enumerate(pairwise(channels))
            )
        )

    def forward(self, images: Tensor) -> Tensor:
        """Features at a sixteenth of the size."""
        return self.model(images)  # type: ignore[no-any-return]


class Decoder(nn.Module):
    """Four times upsampling and convolution, then the image."""

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        channels = [round(width * c) for c in (128, 128, 128, 64, 32)]
        layers: list[nn.Module] = []
        for i, o in pairwise(channels):
            layers += [nn.Upsample(scale_factor=2), ConvBlock(i, o, 3, norm="bn")]
        self.model = nn.Sequential(*layers, ConvBlock(channels[-1], 3, 5, activation="tanh"))

    def forward(self, features: Tensor) -> Tensor:
        """Images in [-1, 1]."""
        return self.model(features)  # type: ignore[no-any-return]


class LocalFusion(nn.Module):
    """Replace random positions of the base image's features by their blend with the best matches of the others."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, base: Tensor, references: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The fused map, the positions (B,M) and the matches (B,n,M)."""
        b, n, c, h, w = references.size()
        count = int(self.rate * h * w)
        positions = torch.tensor([random.sample(range(h * w), count) for _ in range(b)])
        index = positions[:, None].expand(-1, c, -1)
        selected = base.flatten(2).gather(2, index)
        fused, matches = weights[:, :1, None] * selected, []
        for j in range(n):
            reference = references[:, j].flatten(2)
            similarity = F.normalize(selected, dim=1).transpose(1, 2) @ F.normalize(reference, dim=1)
            match = similarity.topk(1, dim=2)[1].squeeze(-1)
            matches.append(match)
            fused = fused + weights[:, j + 1, None, None] * reference.gather(2, match[:, None].expand(-1, c, -1))
        return base.flatten(2).scatter(2, index, fused).view_as(base), positions, torch.stack(matches, 1)


class Generator(nn.Module):
    """Encode K images of a class, fuse them around a random one, decode."""

    def __init__(self, width: float = 1.0, rate: float = 0.5) -> None:
        super().__init__()
        self.encoder = Encoder(width)
        self.decoder = Decoder(width)
        self.fusion = LocalFusion(rate)

    def forward(self, images: Tensor, plan: Any = None) -> Fake:
        """One fake for each episode of images (B,K,3,S,S); the plan is not looked at."""
        b, k = images.size()[:2]
        features = self.encoder(images.flatten(0, 1)).unflatten(0, (b, k))
        weights = torch.rand(b, k).to(features)
        weights = weights / weights.sum(1, keepdim=True)
        base = random.choice(range(k))
        order = [base, *(j for j in range(k) if j != base)]
        features, weights = features[:, order], weights[:, order]
        fused, _, _ = self.fusion(features[:, 0], features[:, 1:], weights)
        return Fake(self.decoder(fused))
