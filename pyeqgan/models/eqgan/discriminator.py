"""EqGAN's discriminator, which is LoFGAN's: activation-first residual blocks under spectral norm."""

from __future__ import annotations

from typing import TypeVar

from torch import Tensor, nn
from torch.nn.utils import parametrizations

from pyeqgan.models.eqgan.config import EqGANConfig
from pyeqgan.models.eqgan.pooling import ReflectAveragePool
from pyeqgan.nn import ActivatedConv2d

_Layer = TypeVar("_Layer", bound=nn.Module)


class EqGANDiscriminator(nn.Module):
    """The discriminator of LoFGAN (ICCV 2021): is an image real, and of which seen class is it.

    A 5×5 convolution, four residual blocks that double the channels (64 to 1024 at full width), each
    followed by an average pool that halves the map, one last block, the global average and two linear heads.

    Spectral norm advances its power iteration at each forward in training mode, so two forwards of the same
    images differ slightly until it has converged; in eval mode it stays where it is.
    """

    def __init__(self, config: EqGANConfig) -> None:
        super().__init__()
        self.config = config
        channels = [config.channels(64 << i) for i in range(5)]
        self.stem = _normalised(nn.Conv2d(3, channels[0], 5, padding=2, padding_mode="reflect"))
        pools = [ReflectAveragePool(config.image_size >> i) for i in range(4)]
        self.blocks = nn.ModuleList(
            _ResidualBlock(i, o, pool)
            for i, o, pool in zip(channels, [*channels[1:], channels[-1]], [*pools, nn.Identity()], strict=True)
        )
        self.adversarial = nn.Linear(channels[-1], 1)
        self.classes = nn.Linear(channels[-1], config.num_classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Judge ``images`` (N,3,S,S) in [-1, 1].

        Returns:
            The adversarial logit (N,), high for real, and the class logits (N,num_classes).

        Raises:
            ValueError: ``images`` has another shape.
        """
        side = self.config.image_size
        if images.dim() != 4 or images.shape[1:] != (3, side, side):
            raise ValueError(
                f"EqGANDiscriminator: images: expected shape (N,3,{side},{side}), got {tuple(images.shape)}"
            )
        x = self.stem(images)
        for block in self.blocks:
            x = block(x)
        features = x.mean((2, 3))
        return self.adversarial(features).squeeze(1), self.classes(features)


class _ResidualBlock(nn.Module):
    """Twice (leaky ReLU, reflect padding, 3×3 convolution), plus the input; then the pool.

    The shortcut, a convolution of single pixels, comes after the pool, with which it commutes: a quarter of the work.
    """

    def __init__(self, in_channels: int, out_channels: int, pool: nn.Module) -> None:
        super().__init__()
        self.convolution1 = _normalised(ActivatedConv2d(in_channels, out_channels))
        self.convolution2 = _normalised(ActivatedConv2d(out_channels, out_channels))
        same = in_channels == out_channels
        self.pool = pool
        self.shortcut = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.shortcut(self.pool(x)) + self.pool(self.convolution2(self.convolution1(x)))
        return y


def _normalised(layer: _Layer) -> _Layer:
    parametrizations.spectral_norm(layer)
    return layer
