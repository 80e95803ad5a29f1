"""Fused kernels for image-generating GANs, and EqGAN, the few-shot generator built on them.

``pyeqgan.functional`` and ``pyeqgan.nn`` are the kernels' public interface, ``pyeqgan.reference`` their oracle,
``pyeqgan.backends`` tells which implementation runs. ``pyeqgan.models`` holds the published systems.
"""

__version__ = "0.1.0"
