"""The contact sheet: a row of images of each class, under its name."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pyeqgan.data.classes import ImageClasses
from pyeqgan.data.images import Pixels
from pyeqgan.errors import UserError

ROWS, COLUMNS = 40, 8
TEXT, GAP = 16, 4


def contact_sheet(classes: ImageClasses, seen: int) -> Image.Image:
    """Eight images of up to forty classes, both spread evenly; an image that cannot be read is left blank.

    Args:
        classes: the data set.
        seen: how many of its classes are seen; the names of the others are marked.
    """
    side = classes.image_size + GAP
    chosen = _spread(len(classes), ROWS)
    sheet = Image.new("RGB", (COLUMNS * side + GAP, len(chosen) * (side + TEXT) + GAP), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for row, index in enumerate(chosen):
        top = row * (side + TEXT) + GAP
        caption = f"{classes.class_names[index]}, {classes.count(index)} images" + ("" if index < seen else ", unseen")
        draw.text((GAP, top), caption.encode(errors="replace").decode(), fill="black", font=font)
        for column, image in enumerate(_spread(classes.count(index), COLUMNS)):
            pixels = _readable(classes, index, image)
            if pixels is not None:
                sheet.paste(Image.fromarray(pixels), (column * side + GAP, top + TEXT))
    return sheet


def _spread(count: int, most: int) -> Sequence[int]:
    return [int(index) for index in np.unique(np.linspace(0, count - 1, min(count, most)).round())]


def _readable(classes: ImageClasses, class_index: int, image_index: int) -> Pixels | None:
    try:
        return classes.image(class_index, image_index)
    except UserError:
        return None
