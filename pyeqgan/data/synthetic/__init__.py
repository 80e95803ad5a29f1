"""The embedded data set: procedural flowers, drawn when asked for.

`species` chooses what a class looks like, `bloom`, `centres` and `painting` draw it, `scene` poses, lights and grounds
one image of it, `flowers` serves the images.
"""

from pyeqgan.data.synthetic.flowers import SyntheticFlowers

__all__ = ["SyntheticFlowers"]
