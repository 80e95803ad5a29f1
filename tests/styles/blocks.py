"""A block with the layers of a decoder, and a net around it, for the tests of swapping."""

from __future__ import annotations

from torch import nn
from torch.nn.utils import parametrizations


class Block(nn.Module):
    """Upsampling, padding, convolution, norm and activation, with a switch."""

    def __init__(self, doubled=False):
        super().__init__()
        self.doubled = doubled
        self.up = nn.Upsample(scale_factor=2)
        self.pad = nn.ReflectionPad2d(1)
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.activation = nn.LeakyReLU(0.2)

    def forward(self, x):
        x = self.activation(self.norm(self.conv(self.pad(self.up(x)))))
        return 2 * x if self.doubled else x


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = Block()
        self.judge = nn.Sequential(
            nn.Conv2d(4, 32, 1),
            nn.LeakyReLU(0.2),
            nn.ReflectionPad2d(1),
            parametrizations.spectral_norm(nn.Conv2d(32, 32, 3)),
        )

    def forward(self, x):
        return self.judge(self.block(x))
