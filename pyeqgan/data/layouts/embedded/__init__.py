"""The embedded layouts: procedural landscapes, drawn when asked for.

`landscape` says what stands where, `painting` gives the classes colour and texture, `scenes` serves the pairs.
"""

from pyeqgan.data.layouts.embedded.scenes import EmbeddedLayouts

__all__ = ["EmbeddedLayouts"]
