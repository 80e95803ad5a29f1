"""ECGAN (ICLR 2023, arXiv 2307.12084): semantic image synthesis guided by edges."""

from __future__ import annotations

from torch import Tensor

from pyeqgan.models.ecgan.config import ECGANConfig
from pyeqgan.models.ecgan.discriminator import ECGANDiscriminator
from pyeqgan.models.ecgan.generator import ECGANGenerator, ECGANOutput
from pyeqgan.models.ecgan.projection import ECGANProjection
from pyeqgan.models.ecgan.segmenter import ECGANSegmenter
from pyeqgan.models.pretrained import Pretrained


class ECGAN(Pretrained):
    """All networks of one configuration, as attributes: generator, discriminator, projection, segmenter."""

    config_type = ECGANConfig

    def __init__(self, config: ECGANConfig) -> None:
        super().__init__()
        self.config = config
        self.generator = ECGANGenerator(config)
        self.discriminator = ECGANDiscriminator(config)
        self.projection = ECGANProjection(config)
        self.segmenter = ECGANSegmenter(config)

    def generate(self, labels: Tensor, instance_edges: Tensor | None = None, *, batch_size: int = 16) -> ECGANOutput:
        """Generate one image from each layout; see :meth:`ECGANGenerator.generate`."""
        return self.generator.generate(labels, instance_edges, batch_size=batch_size)
