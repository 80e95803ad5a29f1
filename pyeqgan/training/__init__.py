"""Training: the run and its engine, which all models share, and a folder a model: its losses, steps and system."""

from pyeqgan.training.ema import ExponentialMovingAverage

__all__ = ["ExponentialMovingAverage"]
