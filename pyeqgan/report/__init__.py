"""A run as one HTML page: what it made through time, how good it is, what it may have memorised, how to repeat it."""

from pyeqgan.report.nearest import Nearest, nearest_images
from pyeqgan.report.run_report import write_run_report

__all__ = ["Nearest", "nearest_images", "write_run_report"]
