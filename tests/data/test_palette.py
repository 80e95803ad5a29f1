"""The colours of label maps."""

from __future__ import annotations

import numpy as np

from pyeqgan.data.layouts import coloured
from pyeqgan.data.layouts.palette import colour_map


def test_it_is_the_colour_map_of_pascal_voc() -> None:
    expected = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 7: (128, 128, 128), 8: (64, 0, 0), 20: (0, 64, 128)}
    colours = colour_map(256)
    assert {c: tuple(colours[c].tolist()) for c in expected} == expected
    assert len({tuple(colour) for colour in colours.tolist()}) == 256
    assert np.array_equal(colour_map(7), colours[:7])


def test_a_class_has_its_colour_wherever_it_is_and_no_class_is_white() -> None:
    labels = np.array([[0, 2, -1], [200, 300, 2]])
    picture = coloured(labels)
    assert picture.shape == (2, 3, 3) and picture.dtype == np.uint8
    assert picture[0].tolist() == [[0, 0, 0], [0, 128, 0], [255, 255, 255]]
    assert np.array_equal(picture[0, 1], picture[1, 2]) and np.array_equal(coloured(labels[:1]), picture[:1])
    assert coloured(np.full((2, 2), -1)).tolist() == [[[255] * 3] * 2] * 2
