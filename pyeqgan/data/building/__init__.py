"""`pyeqgan data build`: folders, archives and the data sets of the few-shot papers become one array with a manifest."""

from pyeqgan.data.building.build import build

__all__ = ["build"]
