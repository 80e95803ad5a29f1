"""ECGAN's discriminator: one for edges, images and refined images, at two scales."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from pyeqgan.models.ecgan.config import ECGANConfig
from pyeqgan.models.ecgan.layout import NEGATIVE_SLOPE, JointConv2d, Layout
from pyeqgan.models.ecgan.trunk import spectral

SCALES = 2
CHANNELS = (64, 128, 256, 512)


class Judgement(NamedTuple):
    """What the discriminator finds at one scale; M maps of each of B layouts.

    Attributes:
        logits: (M,B,1,h,w), one a patch, high for real.
        features: four maps (M,B,C,h_l,w_l), of which feature matching takes the distances.
    """

    logits: Tensor
    features: list[Tensor]


class ECGANDiscriminator(nn.Module):
    """The multi-modality discriminator of ECGAN: a PatchGAN as SPADE's and pix2pixHD's at each of two scales.

    It judges pairs of a layout and any of: edge map, image, refined image. The second scale sees means of 3×3 pixels
    with stride 2, and of the layout every second label (ours: SPADE takes the mean of the one-hot maps, too).
    """

    def __init__(self, config: ECGANConfig) -> None:
        super().__init__()
        self.config = config
        self.scales = nn.ModuleList(_PatchDiscriminator(config) for _ in range(SCALES))

    def forward(self, labels: Tensor, maps: Tensor, instance_edges: Tensor | None = None) -> list[Judgement]:
        """Judge ``maps`` (M,B,3,H,W) in [-1, 1]: M of each layout, whose share of the work is done once.

        Args:
            labels: (B,H,W) int64 in [0, N_c), or -1 where there is no label.
            maps: (M,B,3,H,W).
            instance_edges: (B,1,H,W), if the configuration has them.

        Returns:
            A judgement a scale, fine to coarse.

        Raises:
            ValueError: a shape does not fit.
            TypeError: ``labels`` are not int64.
        """
        layout = Layout.of(self.config, "ECGANDiscriminator", labels, instance_edges)
        expected = (len(labels), 3, *labels.shape[1:])
        if maps.dim() != 5 or maps.shape[1:] != expected:
            shape = ",".join(map(str, expected))
            raise ValueError(f"ECGANDiscriminator: maps: expected shape (M,{shape}), got {tuple(maps.shape)}")
        judgements = []
        for level, scale in enumerate(self.scales):
            if level:
                halved = F.avg_pool2d(maps.flatten(0, 1), 3, 2, 1, count_include_pad=False)
                maps = halved.unflatten(0, maps.shape[:2])
            judgements.append(scale(layout.at(level), maps))
        return judgements


class _PatchDiscriminator(nn.Module):
    """Five 4×4 convolutions, three of stride 2; instance and spectral norm on all but the first and the last."""

    def __init__(self, config: ECGANConfig) -> None:
        super().__init__()
        channels = [config.channels(c) for c in CHANNELS]
        strides = (2, 2, 1)
        self.first = JointConv2d(config, [3], channels[0], 4, stride=2, padding=2)
        # No biases: the instance norm that follows would remove them.
        self.middle = nn.ModuleList(
            spectral(nn.Conv2d(i, o, 4, stride, padding=2, bias=False))
            for (i, o), stride in zip(pairwise(channels), strides, strict=True)
        )
        self.last = nn.Conv2d(channels[-1], 1, 4, padding=2)

    def forward(self, layout: Layout, maps: Tensor) -> Judgement:
        leading = maps.shape[:2]
        joined = self.first.of_maps(maps.flatten(0, 1)).unflatten(0, leading) + self.first.of_layout(layout)
        x = F.leaky_relu(joined.flatten(0, 1), NEGATIVE_SLOPE)
        features = [x]
        for convolution in self.middle:
            x = F.leaky_relu(F.instance_norm(convolution(x)), NEGATIVE_SLOPE)
            features.append(x)
        return Judgement(self.last(x).unflatten(0, leading), [f.unflatten(0, leading) for f in features])
