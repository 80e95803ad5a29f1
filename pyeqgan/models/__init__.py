"""Published models built on the kernels, a package each."""

from pyeqgan.models.eqgan import (
    EqGAN,
    EqGANConfig,
    EqGANDiscriminator,
    EqGANGenerator,
    FusionPlan,
    GeneratorOutput,
)

__all__ = [
    "EqGAN",
    "EqGANConfig",
    "EqGANDiscriminator",
    "EqGANGenerator",
    "FusionPlan",
    "GeneratorOutput",
]
