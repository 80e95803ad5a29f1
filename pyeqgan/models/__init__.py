"""Published models built on the kernels, a package each."""

from pyeqgan.models.card import model_card
from pyeqgan.models.eqgan import (
    EqGAN,
    EqGANConfig,
    EqGANDiscriminator,
    EqGANGenerator,
    FusionPlan,
    GeneratorOutput,
)
from pyeqgan.models.pretrained import Pretrained

__all__ = [
    "EqGAN",
    "EqGANConfig",
    "EqGANDiscriminator",
    "EqGANGenerator",
    "FusionPlan",
    "GeneratorOutput",
    "Pretrained",
    "model_card",
]
