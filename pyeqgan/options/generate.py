"""What `pyeqgan generate` can be told."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import FlagCreatePairsOff

from pyeqgan.errors import UserError
from pyeqgan.options.fields import TOLD, Device, Of, at_least


@dataclass(frozen=True)
class GenerateOptions:
    """Generate images with a trained generator: of the class that some images show, or of label maps.

    Raises:
        UserError: an option is out of range.
    """

    checkpoint: Path
    """Folder of a run, whose last good checkpoint is taken, or of one checkpoint."""
    output: Path
    """Folder for generated_000.png … and grid.png, whose first row is the given images; or for an image and its edges
    of each layout, named as it is, and grid.png."""
    images: Annotated[tuple[Path, ...], Of("eqgan"), TOLD] = ()
    """With an EqGAN: one or more images of one class, any size. Their central square is used."""
    layouts: Annotated[tuple[Path, ...], Of("ecgan"), TOLD] = ()
    """With an ECGAN: one or more label maps, PNGs like those it was trained on, or folders of them."""
    instances: Annotated[tuple[Path, ...], Of("ecgan"), TOLD] = ()
    """With an ECGAN that was trained with --instance-edges: the instance maps of the layouts, in their order."""
    count: Annotated[int, Of("eqgan")] = 16
    """How many images to generate."""
    shots: Annotated[int | None, Of("eqgan"), TOLD] = None
    """How many of the images are fused into each. Default: as in training, or all if fewer are given."""
    weights: Annotated[tuple[float, ...], Of("eqgan"), TOLD] = ()
    """Share of each image, in their order, for example 2 1 1. Default: drawn for every generated image."""
    seed: Annotated[int, Of("eqgan")] = 0
    """Seed of the draws: the same seed gives the same images."""
    batch_size: int = 16
    """Images computed at once."""
    device: Device = "auto"
    """Where to compute; auto is cuda if there is one."""
    force: FlagCreatePairsOff[bool] = False
    """Replace the pictures of an earlier generate in --output; other files are left alone."""
    resume: Annotated[FlagCreatePairsOff[bool], Of("ecgan")] = False
    """With an ECGAN: keep the pictures that an earlier call made in --output, and make those that are missing."""

    def __post_init__(self) -> None:
        if bool(self.images) == bool(self.layouts):
            got = "both" if self.images else "neither"
            raise UserError(f"expected --images (of an EqGAN) or --layouts (of an ECGAN), got {got}")
        if self.resume and self.force:
            raise UserError("--resume keeps what is there and --force replaces it: expected one of them, got both")
        at_least("count", self.count, 1)
        at_least("batch_size", self.batch_size, 1)
        at_least("seed", self.seed, 0)
        if self.shots is not None and not 1 <= self.shots <= len(self.images):
            raise UserError(f"--shots {self.shots}, expected 1 to {len(self.images)}, the number of images given")
        if self.weights:
            told = " ".join(f"{weight:g}" for weight in self.weights)
            if len(self.weights) != len(self.images):
                raise UserError(f"--weights {told}, expected {len(self.images)} numbers, one for each image")
            if not all(math.isfinite(weight) and weight > 0 for weight in self.weights):
                raise UserError(f"--weights {told}, expected finite numbers above 0: leave an image out instead")
