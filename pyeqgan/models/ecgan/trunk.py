"""The generator's trunk: SPADE's residual blocks (Park et al., CVPR 2019)."""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from pyeqgan.models.ecgan.config import ECGANConfig
from pyeqgan.models.ecgan.layout import NEGATIVE_SLOPE, JointConv2d, Layout
from pyeqgan.nn import ModulatedNorm

HIDDEN_CHANNELS = 128
CONTRASTED = (3, 2, 1)  # levels, coarse to fine: H/8, H/4, H/2 (ours)


class Trunk(nn.Module):
    """The shared encoder E of ECGAN: a layout to the features F (B,64,H,W).

    One residual block at each level from L = ``upsamplings`` to 0, nearest neighbours between them; with L = 5 a second
    one at H/16: these are SPADE's "normal" and, with L = 6, "more" generators. L = 7 is SPADE's "most", but with 64
    channels at the end as ECGAN has; L < 5 is (ours).
    """

    def __init__(self, config: ECGANConfig) -> None:
        super().__init__()
        self.levels = list(range(config.upsamplings, -1, -1))
        if config.upsamplings == 5:
            self.levels.insert(1, 4)
        channels = [config.trunk_channels(level) for level in self.levels]
        self.start = JointConv2d(config, [], channels[0])
        self.blocks = nn.ModuleList(SpadeBlock(config, i, o) for i, o in pairwise([channels[0], *channels]))

    def forward(self, layout: Layout) -> tuple[Tensor, list[Tensor]]:
        """Return F and the features of the levels that the contrastive loss looks at, coarse to fine."""
        layouts = {level: layout.at(level) for level in self.levels}
        x = self.start(layouts[self.levels[0]])
        maps = {}
        for (before, level), block in zip(pairwise([self.levels[0], *self.levels]), self.blocks, strict=True):
            if level < before:
                x = F.interpolate(x, scale_factor=2.0)
            maps[level] = x = block(x, layouts[level])
        return x, [maps[level] for level in CONTRASTED]


class SpadeBlock(nn.Module):
    """Twice (modulated norm, leaky ReLU, 3×3 convolution) plus the input, which is modulated if its channels change.

    Spectral norm on the three convolutions, as published.
    """

    def __init__(self, config: ECGANConfig, in_channels: int, out_channels: int) -> None:
        super().__init__()
        middle = min(in_channels, out_channels)
        self.modulation1 = Spade(config, in_channels)
        # No bias: the norm that follows would remove it.
        self.convolution1 = spectral(nn.Conv2d(in_channels, middle, 3, padding=1, bias=False))
        self.modulation2 = Spade(config, middle)
        self.convolution2 = spectral(nn.Conv2d(middle, out_channels, 3, padding=1))
        self.shortcut: nn.ModuleList | None = None
        if in_channels != out_channels:
            convolution = spectral(nn.Conv2d(in_channels, out_channels, 1, bias=False))
            self.shortcut = nn.ModuleList([Spade(config, in_channels, activation=None), convolution])

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """Return the block's output (B,out_channels,h,w)."""
        y = self.convolution1(self.modulation1(x, layout))
        y = self.convolution2(self.modulation2(y, layout))
        if self.shortcut is not None:
            modulation, convolution = self.shortcut
            x = convolution(modulation(x, layout))
        return x + y  # type: ignore[no-any-return]


class Spade(nn.Module):
    """Spatially adaptive normalisation: act(norm(x)·(1 + γ(S)) + β(S)), the norm without parameters.

    γ and β are the halves of one 3×3 convolution of relu(conv3(S)).
    """

    def __init__(self, config: ECGANConfig, channels: int, *, activation: str | None = "leaky_relu") -> None:
        super().__init__()
        hidden = config.channels(HIDDEN_CHANNELS)
        self.hidden = JointConv2d(config, [], hidden)
        self.modulation = nn.Conv2d(hidden, 2 * channels, 3, padding=1)
        self.norm = ModulatedNorm(channels, norm=config.norm, activation=activation, negative_slope=NEGATIVE_SLOPE)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """Return x (B,C,h,w) normalised, modulated by the layout of its size, and activated."""
        gamma, beta = self.modulation(self.hidden(layout, activation="relu")).chunk(2, 1)
        return self.norm(x, gamma, beta)  # type: ignore[no-any-return]


def spectral(convolution: nn.Conv2d) -> nn.Conv2d:
    """The convolution with spectral norm on its weight."""
    parametrizations.spectral_norm(convolution)
    return convolution
