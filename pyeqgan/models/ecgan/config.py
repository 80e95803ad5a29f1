"""What defines an ECGAN: one frozen, validated dataclass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from pyeqgan.models.configuration import ModelConfig, scaled_channels

Norm = Literal["batch", "instance"]
Modules = Literal["image", "edge", "transfer", "semantic"]

UPSAMPLINGS = range(3, 8)
TRUNK_CHANNELS, MOST_CHANNELS = 64, 1024


@dataclass(frozen=True)
class ECGANConfig(ModelConfig):
    """The architecture of an :class:`~pyeqgan.models.ECGAN`; two equal configurations share checkpoints.

    Attributes:
        num_classes: N_c, number of labels of a layout, >= 1.
        image_height: H in pixels, a multiple of 2^``upsamplings``.
        image_width: W, likewise.
        width: factor on every channel count of all networks, see :meth:`channels`; > 0 (ours).
        upsamplings: L, how often the generator's trunk doubles its map, from H/2^L to H; 3 to 7. 5, 6 and 7 are
            published, fewer are (ours): the trunk then begins nearer to the image.
        instance_edges: whether a layout comes with a map of the borders between instances.
        modules: what the generator is made of, each with all before it: "image" (the image branch alone), "edge"
            (and the edge branch), "transfer" (and attention guided edge transfer), "semantic" (and the semantic
            preserving module: the whole of ECGAN). The others are the paper's ablations.
        norm: of the trunk, without parameters: "batch" (published, over all processes) or "instance".

    Raises:
        ValueError: a field is out of range.
        TypeError: a field has the wrong type.
    """

    image_height: int = 256
    image_width: int = 256
    width: float = 1.0
    upsamplings: int = 5
    instance_edges: bool = False
    modules: Modules = "semantic"
    norm: Norm = "batch"

    def __post_init__(self) -> None:
        self._integer("num_classes")
        if self._integer("upsamplings") not in UPSAMPLINGS:
            raise ValueError(
                f"ECGANConfig: upsamplings: expected {UPSAMPLINGS[0]} to {UPSAMPLINGS[-1]}, got {self.upsamplings}"
            )
        for name in ("image_height", "image_width"):
            if self._integer(name) % (1 << self.upsamplings):
                raise ValueError(
                    f"ECGANConfig: {name}: expected a multiple of 2^upsamplings = {1 << self.upsamplings}, "
                    f"got {getattr(self, name)}"
                )
        self._positive("width")
        self._flag("instance_edges")
        self._choice("modules", get_args(Modules))
        self._choice("norm", get_args(Norm))

    def channels(self, full: int) -> int:
        """``full`` channels scaled by ``width``, rounded to a multiple of 8 (a SIMD vector), at least 8."""
        return scaled_channels(full, self.width)

    def trunk_channels(self, level: int) -> int:
        """Channels of the trunk's map of H/2^``level`` × W/2^``level`` pixels: 64 at the image's size, 1024 at most."""
        return self.channels(min(TRUNK_CHANNELS << level, MOST_CHANNELS))

    def contains(self, module: Modules) -> bool:
        """Whether the generator has this module."""
        order = get_args(Modules)
        return order.index(module) <= order.index(self.modules)
