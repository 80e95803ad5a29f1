"""A local web page where images of a class are dropped and new ones come back; needs `pyeqgan[app]`."""

from pyeqgan.app.server import serve

__all__ = ["serve"]
