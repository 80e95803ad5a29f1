"""Existing models on our kernels: `accelerate` swaps what they compute, reports it, proves it and takes it back."""

from pyeqgan.patch.report import Left, Report, Swapped
from pyeqgan.patch.swap import accelerate
from pyeqgan.patch.verify import VerificationError

__all__ = ["Left", "Report", "Swapped", "VerificationError", "accelerate"]
