"""EqGAN (arXiv 2307.14638): few-shot image generation by feature equalization fusion."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pyeqgan.models.eqgan.config import EqGANConfig
from pyeqgan.models.eqgan.discriminator import EqGANDiscriminator
from pyeqgan.models.eqgan.generator import EqGANGenerator
from pyeqgan.models.pretrained import Pretrained


class EqGAN(Pretrained):
    """Generator and discriminator of one configuration, as attributes of those names."""

    config_type = EqGANConfig

    def __init__(self, config: EqGANConfig) -> None:
        super().__init__()
        self.config = config
        self.generator = EqGANGenerator(config)
        self.discriminator = EqGANDiscriminator(config)

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
        """Generate ``count`` images of the class of ``images``; see :meth:`EqGANGenerator.generate`."""
        return self.generator.generate(
            images, count, shots=shots, weights=weights, seed=seed, generator=generator, batch_size=batch_size
        )
