"""The embedded data set: procedural flowers, rendered when they are asked for. All ours."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from pyeqgan.data.images import GIBIBYTE, PixelCache, Pixels, check_image_size, check_index
from pyeqgan.data.synthetic.bloom import Flower
from pyeqgan.data.synthetic.centres import RADII, centre
from pyeqgan.data.synthetic.painting import petal, sepal
from pyeqgan.data.synthetic.scene import Renderer
from pyeqgan.data.synthetic.species import MAX_SPECIES, draw_species
from pyeqgan.errors import UserError


class SyntheticFlowers:
    """Flowers: a class is a species, an image one photograph of it.

    The species fixes the number of petals, their shape, pattern and colours, the centre and how the petals stand;
    two species share at most two of these six. An image varies the rotation, tilt, size, place and openness of the
    flower, every petal, the light, its colour, and a backdrop that says nothing about the class.

    An image depends on (seed, class, image) alone: not on how many there are, nor, but for its sharpness, on the
    image size. Images are kept as uint8 while they fit in `cache_bytes` (least recently used dropped first).

    Raises UserError: `num_classes` not from 1 to 1331, `images_per_class` below 1, `seed` negative, an image size
    out of range.
    """

    def __init__(
        self, num_classes: int, images_per_class: int, image_size: int, seed: int, *, cache_bytes: int = GIBIBYTE
    ) -> None:
        self.image_size = check_image_size(image_size)
        if not 1 <= num_classes <= MAX_SPECIES:
            raise UserError(f"number of flower classes {num_classes}, expected 1 to {MAX_SPECIES}")
        if images_per_class < 1:
            raise UserError(f"images per class {images_per_class}, expected at least 1")
        if seed < 0:
            raise UserError(f"seed {seed}, expected at least 0")
        self.images_per_class = images_per_class
        self.seed = seed
        self.species = tuple(draw_species(seed, index) for index in range(num_classes))
        self.class_names: Sequence[str] = tuple(f"flower_{index:04d}" for index in range(num_classes))
        self._renderer = Renderer(image_size)
        self._flower = lru_cache(maxsize=128)(self._paint)  # a painted species takes up to 2 MB
        self._cache = PixelCache(cache_bytes)

    def __len__(self) -> int:
        return len(self.species)

    def count(self, class_index: int) -> int:
        """Number of images in a class, the same for all."""
        check_index("class", class_index, len(self))
        return self.images_per_class

    def image(self, class_index: int, image_index: int) -> Pixels:
        """One image, uint8 RGB (S,S,3), read-only."""
        check_index("image", image_index, self.count(class_index))
        return self._cache.get((class_index, image_index), lambda: self._render(class_index, image_index))

    def _render(self, class_index: int, image_index: int) -> Pixels:
        rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(2, class_index, image_index)))
        return self._renderer.render(self._flower(class_index), rng)

    def _paint(self, class_index: int) -> Flower:
        rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(1, class_index)))
        species, detail = self.species[class_index], self._renderer.texel_detail
        painted = petal(species, rng, detail)
        rings = tuple(sepal(species.petals, detail) if whorl.sepals else painted for whorl in species.habit.whorls)
        return Flower(
            petals=species.petals,
            habit=species.habit,
            rings=rings,
            centre=centre(species.centre, species.palette, detail),
            centre_radius=RADII[species.centre],
        )
