"""Images that are the same to the eye, found by a perceptual hash: the signs of low frequencies (pHash, Zauner 2010).

The 143 lowest of a 48×48 cosine transform, without the mean, each above their median or not. On 960 photographs of
flowers, 160 street scenes, handwriting and the embedded flowers, JPEG at quality 40, halving and 20 % more or less
light or contrast changed at most 8 bits of 95 % of the photographs (12 of the scenes, by light); images that were not
the same differed in 18 bits and more, but for neighbouring frames of the film. A crop of 3 % changes 20 bits: it is not
found.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pyeqgan.data.images import Pixels

SIDE, GRID = 12, 48
BITS = SIDE**2 - 1
NEAR = 10  # bits: the default threshold, up to which images are called near duplicates
LEAST_CONTRAST = 1e-3  # grey levels: rounding errors of an empty image are no features
ROWS, COLUMNS = 1024, 8192

Bits = NDArray[np.bool_]
Indices = NDArray[np.int64]

_frequency, _place = np.arange(SIDE)[:, None], np.arange(GRID)[None]
_COSINES = np.cos(np.pi * (2 * _place + 1) * _frequency / (2 * GRID)) / GRID


def perceptual_bits(image: Pixels) -> Bits:
    """The hash (143,) of an image uint8 (S,S,3)."""
    grey = Image.fromarray(image).convert("L").resize((GRID, GRID), Image.Resampling.LANCZOS)
    frequencies = (_COSINES @ np.asarray(grey, dtype=np.float64) @ _COSINES.T).ravel()[1:]
    return np.asarray(frequencies > np.median(frequencies) + LEAST_CONTRAST)


def first_matches(bits: Bits, near: int) -> Indices:
    """For each image the index of the first image before it that differs in at most `near` bits; -1 if none does.

    All pairs are compared, by products of blocks that need some 40 MB beside the hashes, however many images there
    are; 100 000 take half a minute of one core.

    Args:
        bits: (N,143).
        near: from 0 to 143.
    """
    signs = np.where(bits, np.float32(1), np.float32(-1))
    first = np.full(len(bits), -1, np.int64)
    for top in range(0, len(bits), ROWS):
        rows = np.arange(top, min(top + ROWS, len(bits)))
        for left in range(0, rows[-1] + 1, COLUMNS):
            columns = np.arange(left, min(left + COLUMNS, rows[-1] + 1))
            close = signs[rows] @ signs[columns].T >= BITS - 2 * near
            close &= columns < rows[:, None]
            found = (first[rows] < 0) & close.any(1)
            first[rows[found]] = columns[close[found].argmax(1)]
    return first
