"""`pyeqgan data inspect`: what a data set holds, and what is wrong with it."""

from pyeqgan.data.inspection.inspect import inspect

__all__ = ["inspect"]
