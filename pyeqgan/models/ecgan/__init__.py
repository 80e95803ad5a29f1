"""ECGAN (ICLR 2023, arXiv 2307.12084): edge-guided semantic image synthesis with contrastive learning."""

from pyeqgan.models.ecgan.config import ECGANConfig
from pyeqgan.models.ecgan.discriminator import ECGANDiscriminator, Judgement
from pyeqgan.models.ecgan.ecgan import ECGAN
from pyeqgan.models.ecgan.generator import ECGANGenerator, ECGANOutput
from pyeqgan.models.ecgan.projection import ECGANProjection
from pyeqgan.models.ecgan.segmenter import ECGANSegmenter

__all__ = [
    "ECGAN",
    "ECGANConfig",
    "ECGANDiscriminator",
    "ECGANGenerator",
    "ECGANOutput",
    "ECGANProjection",
    "ECGANSegmenter",
    "Judgement",
]
