"""Layouts, and the convolution that joins them with feature maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from pyeqgan.functional import layout_conv2d
from pyeqgan.models.ecgan.config import ECGANConfig

NEGATIVE_SLOPE = 0.2


class Layout(NamedTuple):
    """What an image is made from.

    Attributes:
        labels: (B,H,W) int64 in [0, N_c), or -1 where there is none.
        edges: (B,1,H,W) floating, 1 at borders between instances and 0 elsewhere; or None.
    """

    labels: Tensor
    edges: Tensor | None = None

    def at(self, level: int) -> Layout:
        """The layout of H/2^level × W/2^level pixels: of each square its upper left pixel, nearest neighbour."""
        if level == 0:
            return self
        step = 1 << level
        edges = None if self.edges is None else self.edges[..., ::step, ::step].contiguous()
        return Layout(self.labels[:, ::step, ::step].contiguous(), edges)

    @classmethod
    def of(cls, config: ECGANConfig, name: str, labels: Tensor, edges: Tensor | None) -> Layout:
        """The layout of a network's arguments.

        Raises:
            ValueError: a shape does not fit the configuration, or edges are given where it has none, or not.
            TypeError: ``labels`` are not int64.
        """
        size = (config.image_height, config.image_width)
        if labels.dim() != 3 or labels.shape[1:] != size:
            raise ValueError(f"{name}: labels: expected shape (B,{size[0]},{size[1]}), got {tuple(labels.shape)}")
        if labels.is_floating_point() or labels.element_size() != 8:
            raise TypeError(f"{name}: labels: expected torch.int64, got {labels.dtype}")
        if (edges is not None) != config.instance_edges:
            expected = "a tensor, as the configuration has them" if config.instance_edges else "None"
            raise ValueError(
                f"{name}: instance_edges: expected {expected}, got {'None' if edges is None else 'a tensor'}"
            )
        expected_shape = (labels.shape[0], 1, *size)
        if edges is not None and edges.shape != expected_shape:
            raise ValueError(f"{name}: instance_edges: expected shape {expected_shape}, got {tuple(edges.shape)}")
        return cls(labels, edges)


class JointConv2d(nn.Conv2d):
    """The convolution of the concatenation [maps, instance edges, one-hot layout], which is never built.

    A convolution of a concatenation is the sum of its parts' convolutions, and that of a one-hot layout is a sum of
    rows of the weight, :func:`pyeqgan.functional.layout_conv2d`. A :class:`torch.nn.Conv2d` over all channels in its
    parameters and state.

    Args:
        config: tells N_c and whether there are instance edges.
        map_channels: channels of each map.
        out_channels, kernel_size, stride, padding: as of a convolution.

    Shape:
        layout (B,H,W), maps (B,C_i,H,W) → (B,out_channels,H',W').
    """

    def __init__(
        self,
        config: ECGANConfig,
        map_channels: Sequence[int],
        out_channels: int,
        kernel_size: int = 3,
        *,
        stride: int = 1,
        padding: int = 1,
    ) -> None:
        channels = [*map_channels, 1] if config.instance_edges else list(map_channels)
        super().__init__(sum(channels) + config.num_classes, out_channels, kernel_size, stride, padding)
        self._parts = [*channels, config.num_classes]

    def forward(  # type: ignore[override]
        self, layout: Layout, *maps: Tensor, activation: str | None = None
    ) -> Tensor:
        """Return the convolution, activated by None, "relu" or "leaky_relu"."""
        whole = activation if not maps and layout.edges is None else None  # then in one pass
        y = self.of_layout(layout, activation=whole)
        if maps:
            y = y + self.of_maps(*maps)
        if whole == activation:
            return y
        return F.relu(y) if activation == "relu" else F.leaky_relu(y, NEGATIVE_SLOPE)

    def of_layout(self, layout: Layout, *, activation: str | None = None) -> Tensor:
        """The share of the layout and of the bias."""
        *weights, of_labels = self.weight.split(self._parts, 1)
        geometry = {"stride": self.stride[0], "padding": int(self.padding[0])}
        y = layout_conv2d(layout.labels, of_labels, self.bias, activation=activation, **geometry)
        return y if layout.edges is None else y + F.conv2d(layout.edges, weights[-1], None, **geometry)

    def of_maps(self, *maps: Tensor) -> Tensor:
        """The share of the maps, of any batch."""
        weights = self.weight.split(self._parts, 1)
        first, *others = (F.conv2d(m, w, None, self.stride, self.padding) for m, w in zip(maps, weights, strict=False))
        return sum(others, start=first)
