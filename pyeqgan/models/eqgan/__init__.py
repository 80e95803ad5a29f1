"""EqGAN (arXiv 2307.14638): few-shot image generation by feature equalization fusion."""

from pyeqgan.models.eqgan.config import EqGANConfig
from pyeqgan.models.eqgan.discriminator import EqGANDiscriminator
from pyeqgan.models.eqgan.eqgan import EqGAN
from pyeqgan.models.eqgan.fusion import FusionPlan
from pyeqgan.models.eqgan.generator import EqGANGenerator, GeneratorOutput

__all__ = [
    "EqGAN",
    "EqGANConfig",
    "EqGANDiscriminator",
    "EqGANGenerator",
    "FusionPlan",
    "GeneratorOutput",
]
