"""Files that strangers upload: small enough, and images."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from pyeqgan.data.folders import FORMATS, read_image
from pyeqgan.data.images import Pixels
from pyeqgan.errors import UserError

MOST_BYTES = 20 * 2**20
MOST_PIXELS = 50 * 10**6


def read_upload(path: Path, image_size: int) -> Pixels:
    """Decode an uploaded file to uint8 RGB (S,S,3), as a folder's images are.

    Raises:
        UserError: it is larger than 20 MiB or 50 megapixels, which is looked at before anything is decoded, or no image
            that can be read; named without its folder.
    """
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise UserError(f"{path.name} has {size / 2**20:.0f} MiB, expected at most {MOST_BYTES // 2**20}")
    try:
        with Image.open(path, formats=FORMATS) as image:
            width, height = image.size
    except Exception as error:  # a damaged file makes decoders raise nearly anything
        raise UserError(f"{path.name} is no image that can be read: expected {', '.join(FORMATS)}") from error
    if width * height > MOST_PIXELS:
        raise UserError(f"{path.name} has {width}×{height} pixels, expected at most {MOST_PIXELS // 10**6} million")
    try:
        return read_image(path, image_size)
    except UserError as error:
        raise UserError(f"{path.name} is damaged: {str(error).rpartition(': ')[2]}") from error
