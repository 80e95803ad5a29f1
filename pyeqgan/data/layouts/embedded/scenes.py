"""The embedded layouts: procedural landscapes, drawn when they are asked for. All ours."""

from __future__ import annotations

from typing import Literal

import numpy as np

from pyeqgan.data.images import Pixels, check_index
from pyeqgan.data.layouts.embedded.landscape import CLASSES, Grid, Landscape
from pyeqgan.data.layouts.embedded.painting import paint
from pyeqgan.data.layouts.images import CENTRE, Coding, Instances, Labels, View, check_shape
from pyeqgan.errors import UserError

Part = Literal["train", "test"]


class EmbeddedLayouts:
    """Landscapes of six classes, exact to the pixel: no pixel mixes the colours of two.

    A class is known by its lightness, saturation and texture; the hue is the whole image's, and random. Lakes, trees
    and houses are the things that have instances.

    A scene depends on (seed, part, index) alone, and the two parts share no draw; at another size, or seen nearer,
    it is the same scene.

    Raises UserError: an image size out of range, `count` below 1, `seed` negative.
    """

    num_classes = len(CLASSES)
    coding = Coding(len(CLASSES), ignored=255)
    class_names = CLASSES
    has_instances = True

    def __init__(self, part: Part, count: int, image_size: tuple[int, int], seed: int) -> None:
        self.image_size = check_shape(image_size)
        if count < 1:
            raise UserError(f"number of layouts {count}, expected at least 1")
        if seed < 0:
            raise UserError(f"seed {seed}, expected at least 0")
        self.part, self.count, self.seed = part, count, seed

    def __len__(self) -> int:
        return self.count

    def name(self, index: int) -> str:
        """The part and the index."""
        return f"{self.part}_{check_index('layout', index, self.count):05d}"

    def pair(self, index: int, view: View = CENTRE) -> tuple[Pixels, Labels]:
        """One image, uint8 RGB (H,W,3), and its labels, int64 (H,W)."""
        landscape, rng = self._landscape(index, view)
        return paint(landscape, rng), landscape.labels

    def instances(self, index: int, view: View = CENTRE) -> Instances:
        """The things of one image, int32 (H,W)."""
        return self._landscape(index, view)[0].things

    def _landscape(self, index: int, view: View) -> tuple[Landscape, np.random.Generator]:
        """A scene without its paint, and the randomness that is left for that."""
        check_index("layout", index, self.count)
        key = (("train", "test").index(self.part), index)
        rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=key))
        return Landscape(_grid(self.image_size, view), rng), rng


def _grid(image_size: tuple[int, int], view: View) -> Grid:
    height, width = image_size
    unit = 2 / min(height, width)
    left, top, right, bottom = view.box(image_size, image_size)
    x = (left + (np.arange(width) + 0.5) * ((right - left) / width) - width / 2) * unit
    y = (top + (np.arange(height) + 0.5) * ((bottom - top) / height) - height / 2) * unit
    return Grid(x.astype(np.float32)[None], y.astype(np.float32)[:, None], (width / 2 * unit, height / 2 * unit))
