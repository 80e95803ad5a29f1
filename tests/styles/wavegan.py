"""A generator with wavelet skips, in the style of WaveGAN (ECCV 2022), written from its equations.

One upsampling module serves the whole decoder, and some of its outputs go two ways.
"""

from __future__ import annotations

import torch
from torch import nn

from pyeqgan.benchmarks.lofgan_style import ConvBlock


def haar(channels: int, *, transposed: bool = False) -> nn.ModuleDict:
    """The four Haar filters of every channel, fixed."""
    low, high = torch.tensor([1.0, 1.0]) / 2**0.5, torch.tensor([-1.0, 1.0]) / 2**0.5
    filters = {"ll": (low, low), "lh": (low, high), "hl": (high, low), "hh": (high, high)}
    of = nn.ConvTranspose2d if transposed else nn.Conv2d
    bank = nn.ModuleDict({name: of(channels, channels, 2, 2, groups=channels, bias=False) for name in filters})
    for name, (a, b) in filters.items():
        bank[name].weight = nn.Parameter(torch.outer(a, b).expand(channels, 1, 2, 2).clone(), requires_grad=False)
    return bank


class WavePool(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.bank = haar(channels)

    def forward(self, x):
        return self.bank["ll"](x), self.bank["lh"](x), self.bank["hl"](x), self.bank["hh"](x)


class WaveUnpool(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.bank = haar(channels, transposed=True)

    def forward(self, ll, lh, hl, hh):
        return self.bank["ll"](ll) + self.bank["lh"](lh) + self.bank["hl"](hl) + self.bank["hh"](hh)


class Encoder(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.conv1 = ConvBlock(3, c, 5, norm="bn")
        self.conv2 = ConvBlock(c, c, 3, 2, norm="bn")
        self.pool2 = WavePool(c)
        self.conv3 = ConvBlock(c, c, 3, 2, norm="bn")
        self.pool3 = WavePool(c)
        self.conv4 = ConvBlock(c, c, 3, 2, norm="bn")

    def forward(self, x):
        skips = {}
        x = self.conv2(self.conv1(x))
        ll2, lh, hl, hh = self.pool2(x)
        skips["pool2"] = [lh, hl, hh]
        x = self.conv3(x)
        ll3, lh, hl, hh = self.pool3(x + ll2)
        skips["pool3"] = [lh, hl, hh]
        return self.conv4(x) + ll3, skips


class Decoder(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.upsample = nn.Upsample(scale_factor=2)
        self.conv1 = ConvBlock(c, c, 3, norm="bn")
        self.conv2 = ConvBlock(c, c, 3, norm="bn")
        self.conv3 = ConvBlock(c, c, 3, norm="bn")
        self.unpool = WaveUnpool(c)
        self.image = ConvBlock(c, 3, 5, activation="tanh")

    def forward(self, x, skips):
        lh, hl, hh = skips["pool3"]
        y = self.conv1(self.upsample(x)) + self.unpool(x, lh, hl, hh)
        up = self.upsample(y)  # goes into a convolution and into the wavelets
        lh, hl, hh = skips["pool2"]
        y = self.conv2(up) + up + self.unpool(y, lh, hl, hh)
        y = self.conv3(self.upsample(y))
        return self.image(y)


class Generator(nn.Module):
    def __init__(self, channels=4):
        super().__init__()
        self.encoder = Encoder(channels)
        self.decoder = Decoder(channels)

    def forward(self, images):
        return self.decoder(*self.encoder(images))
