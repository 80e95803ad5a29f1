"""Pictures for a report."""

from __future__ import annotations

from PIL import Image

from pyeqgan.data.images import Pixels
from pyeqgan.report.nearest import Nearest
from pyeqgan.training.pictures import image_grid

SHOWN = 8


def nearest_picture(images: Pixels, nearest: Nearest) -> Image.Image:
    """Images over the training images nearest to them, in columns; at most eight."""
    return enlarged(image_grid([list(images[:SHOWN]), list(nearest.images[:SHOWN])]))


def enlarged(picture: Image.Image, least_width: int = 800) -> Image.Image:
    """A picture enlarged by a whole factor until it is wide enough to look at."""
    factor = -(-least_width // picture.width)
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.BICUBIC)
