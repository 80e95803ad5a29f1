"""Training: losses, the two steps of an iteration, and the average of the generator."""

from pyeqgan.training.ema import ExponentialMovingAverage
from pyeqgan.training.losses import LossWeights
from pyeqgan.training.step import discriminator_step, generator_step

__all__ = ["ExponentialMovingAverage", "LossWeights", "discriminator_step", "generator_step"]
