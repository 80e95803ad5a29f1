"""Published models built on the kernels, a package each."""

from pyeqgan.models.card import model_card
from pyeqgan.models.configuration import ModelConfig
from pyeqgan.models.ecgan import (
    ECGAN,
    ECGANConfig,
    ECGANDiscriminator,
    ECGANGenerator,
    ECGANOutput,
    ECGANProjection,
    ECGANSegmenter,
    Judgement,
)
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
    "ECGAN",
    "ECGANConfig",
    "ECGANDiscriminator",
    "ECGANGenerator",
    "ECGANOutput",
    "ECGANProjection",
    "ECGANSegmenter",
    "EqGAN",
    "EqGANConfig",
    "EqGANDiscriminator",
    "EqGANGenerator",
    "FusionPlan",
    "GeneratorOutput",
    "Judgement",
    "ModelConfig",
    "Pretrained",
    "model_card",
]
