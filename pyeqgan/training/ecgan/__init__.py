"""How an ECGAN learns: its losses, and the two steps of an iteration."""

from pyeqgan.training.ecgan.losses import LossWeights
from pyeqgan.training.ecgan.step import discriminator_step, generate, generator_step

__all__ = ["LossWeights", "discriminator_step", "generate", "generator_step"]
