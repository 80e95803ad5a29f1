"""The colours in which label maps are shown."""

from __future__ import annotations

import numpy as np

from pyeqgan.data.images import Pixels
from pyeqgan.data.layouts.images import Labels

BLANK = (255, 255, 255)
BITS = 8


def colour_map(classes: int) -> Pixels:
    """The colour map of PASCAL VOC: (classes,3) uint8, row c the colour of class c whatever their number.

    The bits of the label, three at a time, are the leading bits of red, green and blue, so that the first classes
    differ most. 256 colours; they repeat beyond.
    """
    labels = np.arange(classes)
    colours = np.zeros((classes, 3), np.uint8)
    for place in range(BITS):
        for channel in range(3):
            bit = labels >> (3 * place + channel) & 1
            colours[:, channel] |= (bit << (BITS - 1 - place)).astype(np.uint8)
    return colours


def coloured(labels: Labels) -> Pixels:
    """Label maps (...,H,W) int64 as pictures uint8 (...,H,W,3): see `colour_map`, white where a pixel has no class."""
    colours = np.concatenate([colour_map(int(labels.max(initial=0)) + 1), np.array([BLANK], np.uint8)])
    picture: Pixels = colours[labels]  # IGNORED, −1, is the last row
    return picture
