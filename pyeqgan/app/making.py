"""What happens when the button is pressed: uploaded files and sliders in, images out."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from pyeqgan.app.reading import read_upload
from pyeqgan.data import to_tensor, to_uint8
from pyeqgan.data.images import Pixels
from pyeqgan.errors import UserError
from pyeqgan.models import EqGANGenerator

MOST_IMAGES = 64
LARGEST_SEED = 2**31 - 1


def make_images(
    generator: EqGANGenerator, paths: Sequence[Path | None], weights: Sequence[float], count: int, seed: int
) -> Pixels:
    """Generate from the images that are there and have a share.

    Args:
        generator: in eval mode.
        paths: of the uploaded files, None where there is none.
        weights: the share of each; 0 leaves it out.
        count: how many images, 1 to 64.
        seed: from 0 to 2³¹ − 1; the same seed gives the same images.

    Returns:
        uint8 (count,S,S,3).

    Raises:
        UserError: there is no image with a share, one cannot be read, or a number is out of range.
    """
    for name, number, least, most in (("how many", count, 1, MOST_IMAGES), ("seed", seed, 0, LARGEST_SEED)):
        if not least <= number <= most:
            raise UserError(f"{name}: {number}, expected {least} to {most}")
    used = [(path, weight) for path, weight in zip(paths, weights, strict=True) if path is not None and weight > 0]
    if not used:
        raise UserError("expected at least one image with a share above 0")
    references = np.stack([read_upload(path, generator.config.image_size) for path, _ in used])
    shares = [weight for _, weight in used]
    return to_uint8(generator.generate(to_tensor(references), count, shots=len(used), weights=shares, seed=seed))


def zipped(images: Pixels) -> bytes:
    """The images as PNG files in an archive, named as `pyeqgan generate` names them."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for index, pixels in enumerate(images):
            png = io.BytesIO()
            Image.fromarray(pixels).save(png, format="PNG")
            file.writestr(f"generated_{index:03d}.png", png.getvalue())
    return archive.getvalue()
