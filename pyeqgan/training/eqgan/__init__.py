"""How an EqGAN learns: its losses, the two steps of an iteration, and the system that a training run is given."""

from pyeqgan.training.eqgan.losses import LossWeights
from pyeqgan.training.eqgan.step import discriminator_step, generator_step

__all__ = ["LossWeights", "discriminator_step", "generator_step"]
