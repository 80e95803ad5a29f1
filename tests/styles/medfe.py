"""MEDFE's feature equalization (ECCV 2020) from its equations, and in the layout its public code gives it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


def gaussian(size: int, sigma: float) -> torch.Tensor:
    """(HW,HW): for every pixel, the normalised Gaussian over all pixels."""
    place = torch.arange(size, dtype=torch.float64)
    line = torch.exp(-((place[:, None] - place) ** 2) / (2 * sigma**2))
    plane = torch.einsum("ik,jl->ijkl", line, line).reshape(size * size, size * size)
    return plane / plane.sum(1, keepdim=True)


class SqueezeExcite(nn.Module):
    def __init__(self, channels, reduction=4):
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Sequential(
            nn.Conv2d(channels, channels // reduction, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels // reduction, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x):
        return x * self.fc(self.pool(x))


class Equalization(nn.Module):
    """Channel gate, spatial and range propagation, and the product that brings both together."""

    def __init__(self, channels, size, sigma=1.5):
        super().__init__()
        self.gate = SqueezeExcite(channels)
        self.register_buffer("gaussian", gaussian(size, sigma).float())
        self.down = nn.Sequential(
            nn.Conv2d(2 * channels, channels, 1, bias=False), nn.InstanceNorm2d(channels), nn.LeakyReLU(0.2)
        )

    def forward(self, x):
        v = self.gate(x)
        return self.down(torch.cat([self.spatial(v), self.ranged(v)], 1))

    def spatial(self, v):
        b, c, h, w = v.size()
        return (v.flatten(2) @ self.gaussian.t()).view(b, c, h, w)

    def ranged(self, v):
        b, c, h, w = v.size()
        near = F.unfold(v, 3, padding=1).view(b, c, 9, h, w)
        squashed = torch.sigmoid(v)
        alike = F.unfold(squashed, 3, padding=1).view(b, c, 9, h, w)
        share = torch.softmax((alike * squashed[:, :, None]).mean(1, keepdim=True), 2)
        return (share * near).sum(2)


class PublicLayout(Equalization):
    """As published: the propagated pixels come first, then the channels, and the rows are read as a map."""

    def spatial(self, v):
        b, c, h, w = v.size()
        return (self.gaussian @ v.flatten(2).transpose(1, 2)).reshape(b, c, h, w)


class EqualizationNet(nn.Module):
    """Texture and structure, resized and equalized, go back to every scale of a small encoder and decoder."""

    def __init__(self, channels=4, size=8, equalization=Equalization):
        super().__init__()
        self.down = nn.ModuleList(nn.Conv2d(3 if i == 0 else channels, channels, 4, 2, 1) for i in range(3))
        self.fuse = nn.Sequential(nn.Conv2d(3 * channels, channels, 1), nn.InstanceNorm2d(channels), nn.LeakyReLU(0.2))
        self.base = equalization(channels, size)
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * channels, channels, 4, 2, 1) for _ in range(2))
        self.image = nn.ConvTranspose2d(2 * channels, 3, 4, 2, 1)

    def forward(self, x):
        texture = F.leaky_relu(self.down[0](x), 0.2)
        middle = F.leaky_relu(self.down[1](texture), 0.2)
        structure = F.leaky_relu(self.down[2](middle), 0.2)
        maps = [F.avg_pool2d(texture, 2), middle, F.interpolate(structure, scale_factor=2, mode="bilinear")]
        base = self.base(self.fuse(torch.cat(maps, 1)))
        y = self.up[0](torch.cat([structure, F.avg_pool2d(base, 2)], 1))
        y = self.up[1](torch.cat([y, base], 1))
        return torch.tanh(self.image(torch.cat([y, F.interpolate(base, scale_factor=2)], 1)))
