"""What defines an EqGAN: one frozen, validated dataclass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from pyeqgan.models.configuration import ModelConfig, scaled_channels

Fusion = Literal["local", "mean"]
Equalization = Literal["scales", "shared"]
Detail = Literal["fused", "base", "none"]

IMAGE_SIZES = range(32, 257, 16)


@dataclass(frozen=True)
class EqGANConfig(ModelConfig):
    """The architecture of an :class:`~pyeqgan.models.EqGAN`; two equal configurations share checkpoints.

    Attributes:
        num_classes: number of seen classes, the size of the discriminator's class head; >= 1.
        image_size: side S of the square images in pixels, a multiple of 16 from 32 to 256. The encoder's
            maps have S, S/2, S/4, S/8 and S/16 pixels a side.
        shots: K, how many images of a class are fused into one, >= 1; a generator call may use another K.
        width: factor on every channel count of both networks, see :meth:`channels`; > 0 (ours).
        fusion: "local" (LoFGAN's local fusion) or "mean" (the weighted mean of whole maps, an ablation).
        fusion_rate: share of the positions that local fusion replaces, in (0, 1].
        equalization: "scales" (one equalization at each scale) or "shared" (one at S/4, projected to each).
        detail: the shallow feature that joins the equalization at the two finest scales (ours): "fused"
            (local fusion's matches lifted to the finer map), "base" (the base image's own) or "none".

    Raises:
        ValueError: a field is out of range.
        TypeError: a field has the wrong type.
    """

    image_size: int = 128
    shots: int = 3
    width: float = 1.0
    fusion: Fusion = "local"
    fusion_rate: float = 0.5
    equalization: Equalization = "scales"
    detail: Detail = "fused"

    def __post_init__(self) -> None:
        self._integer("num_classes")
        self._integer("shots")
        if self._integer("image_size") not in IMAGE_SIZES:
            raise ValueError(
                f"EqGANConfig: image_size: expected a multiple of {IMAGE_SIZES.step} from "
                f"{IMAGE_SIZES.start} to {IMAGE_SIZES[-1]}, got {self.image_size}"
            )
        self._positive("width")
        if self._positive("fusion_rate") > 1:
            raise ValueError(f"EqGANConfig: fusion_rate: expected a number in (0, 1], got {self.fusion_rate}")
        self._choice("fusion", get_args(Fusion))
        self._choice("equalization", get_args(Equalization))
        self._choice("detail", get_args(Detail))

    def channels(self, full: int) -> int:
        """``full`` channels scaled by ``width``, rounded to a multiple of 8 (a SIMD vector), at least 8."""
        return scaled_channels(full, self.width)
