"""EqGAN's generator: K images of one class are fused, equalized at several scales and decoded into one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pyeqgan.models.eqgan.config import EqGANConfig
from pyeqgan.models.eqgan.fusion import Fusion, FusionPlan
from pyeqgan.models.eqgan.layers import (
    ContentSplit,
    Decoder,
    Encoder,
    EqualizationPerScale,
    SharedEqualization,
)
from pyeqgan.models.pretrained import Pretrained


class GeneratorOutput(NamedTuple):
    """What a generator call returns; B rows throughout.

    Attributes:
        images: (B,3,S,S) in [-1, 1].
        equalized: the equalized features E_s at S/8, S/4, S/2 and S, shaped like ``decoded``.
        decoded: the decoder's features d_s, (B,C_s,s,s) at the same scales.
        plan: the choices made.
        matches: by grid side, as in ``plan.positions``: (B,K-1,M) int64, where in each reference (in the
            order of :meth:`FusionPlan.base_first`) the content of a replaced position was found.
    """

    images: Tensor
    equalized: list[Tensor]
    decoded: list[Tensor]
    plan: FusionPlan
    matches: dict[int, Tensor]


class EqGANGenerator(Pretrained):
    """The generator of EqGAN (arXiv 2307.14638), with LoFGAN's fusion and MEDFE's equalization.

    The paper's abstract gives the idea: structure (deep) and texture (shallow) features of K images are
    fused, equalized at several scales and fed to the decoder by skip connections. Layers, channels and the
    detail input of the two finest scales are ours.

    Works under autocast, with ``channels_last`` weights and on any device. Batch norm sees B·K images in the
    encoder and B in the decoder; in eval mode it uses its running statistics.
    """

    config_type = EqGANConfig

    def __init__(self, config: EqGANConfig) -> None:
        super().__init__()
        self.config = config
        shallow, middle, deep = (config.channels(c) for c in (32, 64, 128))
        channels = (deep, deep, middle, shallow)
        details = (0, 0, 0, 0) if config.detail == "none" else (0, 0, middle, shallow)
        self.encoder = Encoder(shallow, middle, deep)
        self.content = ContentSplit(shallow, middle, deep)
        equalization = EqualizationPerScale if config.equalization == "scales" else SharedEqualization
        self.equalization = equalization(deep, channels, details)
        self.decoder = Decoder(deep, channels)

    def forward(
        self, images: Tensor, *, plan: FusionPlan | None = None, generator: torch.Generator | None = None
    ) -> GeneratorOutput:
        """Generate one image from each row of K.

        Args:
            images: (B,K,3,S,S) floating in [-1, 1], K images of one class per row; any K >= 1.
            plan: the random choices; drawn by :meth:`sample_plan` if None.
            generator: source of randomness for a drawn plan, on any device; torch's default if None.

        Raises:
            ValueError: a size of ``images`` or ``plan`` does not fit.
            TypeError: ``images`` is not floating.
        """
        self._check_images(images, "B", "K")
        batch, shots = images.shape[:2]
        if plan is None:
            plan = self.sample_plan(batch, shots, generator=generator, device=images.device)
        else:
            plan.check(self._grids(), batch, shots)
        # Each row's base goes first: it and its references are then views of every feature below.
        features = self.encoder(plan.base_first(images).flatten(0, 1))
        content = self.content(features)
        fine, middle, _, _, bottleneck, structure, texture = (
            f.unflatten(0, (batch, shots)) for f in (*features, *content)
        )
        fusion = Fusion(plan)
        z, structure, texture = fusion.fuse(bottleneck), fusion.fuse(structure), fusion.fuse(texture)
        details = [None, None, self._detail(fusion, middle), self._detail(fusion, fine)]
        equalized = self.equalization(structure, texture, details)
        image, decoded = self.decoder(z, equalized)
        return GeneratorOutput(image, equalized, decoded, plan, fusion.matches)

    def sample_plan(
        self,
        batch: int,
        shots: int | None = None,
        *,
        generator: torch.Generator | None = None,
        device: torch.device | None = None,
        rows: slice = slice(None),
    ) -> FusionPlan:
        """Draw the random choices for ``batch`` rows of ``shots`` images (the configuration's if None).

        See :meth:`FusionPlan.sample`.
        """
        shots = self.config.shots if shots is None else shots
        return FusionPlan.sample(self._grids(), batch, shots, generator=generator, device=device, rows=rows)

    @torch.no_grad()
    def generate(
        self,
        images: Tensor,
        count: int,
        *,
        shots: int | None = None,
        weights: Sequence[float] | None = None,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        batch_size: int = 16,
    ) -> Tensor:
        """Generate ``count`` images of the class that ``images`` show, in eval mode.

        Each output fuses ``shots`` of the given images, drawn without replacement. All draws are made before
        the first batch, so a seed gives the same images at any ``batch_size`` (up to rounding).

        Args:
            images: (n,3,S,S) floating in [-1, 1], n >= ``shots``; moved to the model's device.
            count: how many to generate, >= 1.
            shots: K for this call; the configuration's if None.
            weights: the share of each given image, n finite numbers > 0, divided by their sum over the images fused.
                An image's layout is kept as often as its share says (ours). Both are drawn, as in training, if None.
            seed: seeds the draws; or
            generator: draws from it; or, with neither, from torch's default generator.
            batch_size: outputs computed at once, >= 1.

        Returns:
            (count,3,S,S) in [-1, 1] on the model's device.

        Raises:
            ValueError: a size, a count or the range of the images does not fit, or both sources are given.
            TypeError: ``images`` is not floating.
        """
        shots = self.config.shots if shots is None else shots
        for name, number in (("count", count), ("shots", shots), ("batch_size", batch_size)):
            if number < 1:
                raise ValueError(f"generate: {name}: expected an integer >= 1, got {number}")
        if seed is not None and generator is not None:
            raise ValueError("generate: expected seed or generator, got both")
        self._check_images(images, "n")
        if images.shape[0] < shots:
            raise ValueError(f"generate: images: expected at least {shots} to fuse, got {images.shape[0]}")
        if not images.abs().max() <= 1:
            raise ValueError(f"generate: images: expected values in [-1, 1], got {images.min():g} to {images.max():g}")
        if weights is not None:
            _check_weights(weights, len(images))
        parameter = next(self.parameters())
        images = images.to(parameter.device, parameter.dtype)
        if seed is not None:
            generator = torch.Generator().manual_seed(seed)
        source = generator.device if generator is not None else None
        keys = torch.rand(count, images.shape[0], generator=generator, device=source)
        chosen = keys.argsort(1)[:, :shots]
        plan = self.sample_plan(count, shots, generator=generator, device=images.device)
        if weights is not None:
            plan = plan.weighted(torch.tensor(weights, device=source)[chosen], generator)
        chosen = chosen.to(images.device)

        training = self.training
        self.eval()
        try:
            parts = [slice(start, start + batch_size) for start in range(0, count, batch_size)]
            return torch.cat([self(images[chosen[part]], plan=plan.rows(part)).images for part in parts])
        finally:
            self.train(training)

    def _grids(self) -> dict[int, int]:
        """How many positions local fusion replaces on the bottleneck's, structure's and texture's grid."""
        if self.config.fusion == "mean":
            return {}
        sides = (self.config.image_size // reduction for reduction in (16, 8, 4))
        return {side: max(1, round(self.config.fusion_rate * side * side)) for side in sides}

    def _detail(self, fusion: Fusion, features: Tensor) -> Tensor | None:
        """The native detail (B,C,s,s) of a fine scale from features (B,K,C,s,s), or None (ours)."""
        if self.config.detail == "none":
            return None
        if self.config.detail == "base":
            return features[:, 0]
        return fusion.lift(features, self.config.image_size // 4)

    def _check_images(self, images: Tensor, *leading: str) -> None:
        side = self.config.image_size
        rank = len(leading)
        if images.dim() != rank + 3 or images.shape[rank:] != (3, side, side) or 0 in images.shape[:rank]:
            raise ValueError(
                f"EqGANGenerator: images: expected shape ({','.join(leading)},3,{side},{side}), none 0, "
                f"got {tuple(images.shape)}"
            )
        if not images.is_floating_point():
            raise TypeError(f"EqGANGenerator: images: expected floating point in [-1, 1], got {images.dtype}")


def _check_weights(weights: Sequence[float], images: int) -> None:
    if len(weights) != images or not all(math.isfinite(weight) and weight > 0 for weight in weights):
        raise ValueError(f"generate: weights: expected {images} finite numbers > 0, got {list(weights)}")
