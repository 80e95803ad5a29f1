"""The parts EqGAN's generator is made of: encoder, content split, equalization at every scale, decoder."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyeqgan.nn import EqualizationFusion, SkipDecoderBlock

NEGATIVE_SLOPE = 0.2


class Encoder(nn.Module):
    """F1 to F5: one 5×5 convolution, then four of 3×3 that halve the map."""

    def __init__(self, shallow: int, middle: int, deep: int) -> None:
        super().__init__()
        self.stem = _convolution(3, shallow, 5)
        widths = [shallow, middle, deep, deep, deep]
        self.halving = nn.ModuleList(_convolution(i, o, 3, stride=2) for i, o in pairwise(widths))

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images (N,3,S,S) to five maps of S, S/2, S/4, S/8 and S/16 pixels a side."""
        features = [self.stem(images)]
        for halve in self.halving:
            features.append(halve(features[-1]))
        return features


class ContentSplit(nn.Module):
    """Structure from the deep features, texture from the shallow ones, after MEDFE."""

    def __init__(self, shallow: int, middle: int, deep: int) -> None:
        super().__init__()
        self.down1 = nn.Sequential(_convolution(shallow, middle, 3, stride=2), _convolution(middle, deep, 3, stride=2))
        self.down2 = _convolution(middle, deep, 3, stride=2)
        self.texture = _convolution(3 * deep, deep, 1)
        self.structure = _convolution(2 * deep, deep, 1)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """F1 to F5 to the structure at S/8 and the texture at S/4."""
        f1, f2, f3, f4, f5 = features
        structure = self.structure(torch.cat([f4, F.interpolate(f5, scale_factor=2.0)], 1))
        texture = self.texture(torch.cat([self.down1(f1), self.down2(f2), f3], 1))
        return structure, texture


class EqualizationPerScale(nn.Module):
    """Structure and texture, resized to each scale and joined by its detail, are equalized there."""

    def __init__(self, content: int, channels: Sequence[int], details: Sequence[int]) -> None:
        super().__init__()
        self.scales = nn.ModuleList(
            EqualizationFusion(content, content, c, detail_channels=d) for c, d in zip(channels, details, strict=True)
        )

    def forward(self, structure: Tensor, texture: Tensor, details: Sequence[Tensor | None]) -> list[Tensor]:
        """E_s at the structure's scale and at each doubling of it; ``details`` has one entry a scale."""
        equalized = []
        for i, (fusion, detail) in enumerate(zip(self.scales, details, strict=True)):
            side = structure.shape[-1] << i
            equalized.append(fusion(_resize(structure, side), _resize(texture, side), detail))
        return equalized


class SharedEqualization(nn.Module):
    """One equalization at the texture's scale, projected to each scale; the detail joins there (ours)."""

    def __init__(self, content: int, channels: Sequence[int], details: Sequence[int]) -> None:
        super().__init__()
        self.fusion = EqualizationFusion(content, content, content)
        self.projections = nn.ModuleList(nn.Conv2d(content + d, c, 1) for c, d in zip(channels, details, strict=True))

    def forward(self, structure: Tensor, texture: Tensor, details: Sequence[Tensor | None]) -> list[Tensor]:
        """As :meth:`EqualizationPerScale.forward`."""
        shared = self.fusion(_resize(structure, texture.shape[-1]), texture)
        equalized = []
        for i, (projection, detail) in enumerate(zip(self.projections, details, strict=True)):
            resized = _resize(shared, structure.shape[-1] << i)
            joined = resized if detail is None else torch.cat([resized, detail], 1)
            equalized.append(F.leaky_relu(projection(joined), NEGATIVE_SLOPE))
        return equalized


class Decoder(nn.Module):
    """From the fused bottleneck to the image; each E_s enters by a skip connection."""

    def __init__(self, bottleneck: int, channels: Sequence[int]) -> None:
        super().__init__()
        # No biases: the batch norm that follows would remove them.
        self.start = SkipDecoderBlock(bottleneck, 0, channels[0], bias=False)
        self.doubling = nn.ModuleList(SkipDecoderBlock(i, i, o, bias=False) for i, o in pairwise(channels))
        self.to_image = nn.Conv2d(2 * channels[-1], 3, 5, padding=2, padding_mode="reflect")

    def forward(self, bottleneck: Tensor, equalized: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """The image (B,3,S,S) in [-1, 1] and the decoded features d_s, shaped like ``equalized``."""
        *skips, finest = equalized
        decoded = [self.start(bottleneck)]
        for double, skip in zip(self.doubling, skips, strict=True):
            decoded.append(double(decoded[-1], skip))
        return torch.tanh(self.to_image(torch.cat([finest, decoded[-1]], 1))), decoded


def _convolution(in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1) -> nn.Sequential:
    """Convolution (reflect padding, no bias: the norm would remove it), batch norm, leaky ReLU."""
    convolution = nn.Conv2d(
        in_channels,
        out_channels,
        kernel_size,
        stride,
        padding=kernel_size // 2,
        padding_mode="reflect" if kernel_size > 1 else "zeros",
        bias=False,
    )
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels), nn.LeakyReLU(NEGATIVE_SLOPE, inplace=True))


def _resize(x: Tensor, side: int) -> Tensor:
    """Bilinear; halving a side is then the mean of 2×2 pixels."""
    if x.shape[-1] == side:
        return x
    return F.interpolate(x, size=(side, side), mode="bilinear", align_corners=False)
