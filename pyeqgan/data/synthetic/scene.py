"""One photograph of a flower: where it stands, its light, what is behind it. All ours.

Positions are in half-widths of the image, x to the right and y down, from -1 to 1: a scene is the same at any size.
"""

from __future__ import annotations

import math

import numpy as np

from pyeqgan.data.images import Pixels
from pyeqgan.data.synthetic.bloom import Array, Flower, Stance, draw_bloom, sample
from pyeqgan.data.synthetic.painting import leaf

_SUPERSAMPLING = 2

# What is out of focus behind a flower: dark and bright colour, and how much brighter the top is.
_BACKDROPS = (
    ((26, 52, 22), (96, 140, 58), 0.1),  # foliage
    ((62, 92, 30), (168, 192, 92), 0.2),  # meadow in the sun
    ((8, 14, 10), (44, 62, 36), 0.0),  # shade
    ((96, 146, 204), (206, 226, 244), -0.2),  # sky
    ((58, 42, 28), (140, 112, 80), 0.1),  # earth
    ((120, 92, 40), (230, 190, 112), 0.3),  # evening
    ((92, 98, 96), (176, 182, 178), 0.1),  # stone
    ((20, 66, 58), (112, 164, 134), 0.2),  # water
)
_STEM = np.array([[[96]], [[136]], [[60]]], np.float32)


class Renderer:
    """Renders scenes at one image size; holds what depends on nothing but the size."""

    def __init__(self, image_size: int) -> None:
        self.image_size = image_size
        self.texel_detail = max(1, 128 // image_size)
        """How many texels a side a texture should average to one, so that it does not alias at this size."""
        self._leaf = leaf(self.texel_detail)
        self._x, self._y = _pixel_grid(image_size)
        self._fine_x, self._fine_y = _pixel_grid(image_size * _SUPERSAMPLING)
        self._blurs = [_smoothing(cells, image_size) for cells in (4, 9)]

    def render(self, flower: Flower, rng: np.random.Generator) -> Pixels:
        """One image uint8 (S,S,3) of the flower; `rng` decides everything but the species."""
        at = np.float32(rng.uniform(-0.22, 0.22)), np.float32(rng.uniform(-0.25, 0.18))
        image = self._backdrop(rng)
        self._draw_greenery(image, at, rng)
        self._draw_flower(image, flower, at, rng)
        gain, warmth = rng.uniform(0.72, 1.12), rng.normal(0, 0.06)
        image *= np.array([gain * (1 + warmth), gain, gain * (1 - warmth)], np.float32).reshape(3, 1, 1)
        return np.asarray(np.rint(np.clip(image, 0, 255)).transpose(1, 2, 0), np.uint8, order="C")

    def _backdrop(self, rng: np.random.Generator) -> Array:
        """Colours out of focus (3,S,S), with a few discs of light."""
        dark, bright, rise = _BACKDROPS[rng.integers(len(_BACKDROPS))]
        level = 0.5 - rise * self._y
        for blur, strength in zip(self._blurs, (0.38, 0.2), strict=True):
            cells = rng.standard_normal((blur.shape[1], blur.shape[1])).astype(np.float32)
            level += strength * (blur @ cells @ blur.T)
        for _ in range(rng.integers(0, 6)):
            (x, y), radius, light = rng.uniform(-1, 1, 2), rng.uniform(0.08, 0.3), rng.uniform(0.05, 0.3)
            distance = np.hypot(self._x - np.float32(x), self._y - np.float32(y))
            level += light * np.clip((radius - distance) * 20, 0, 1)
        low, high = (np.array(colour, np.float32).reshape(3, 1, 1) for colour in (dark, bright))
        return np.asarray(low + (high - low) * np.clip(level, 0, 1.15))

    def _draw_greenery(self, image: Array, at: tuple[np.float32, np.float32], rng: np.random.Generator) -> None:
        """A stem and some leaves, more or less in focus, into image (3,S,S)."""
        focus = self.image_size / 2 * rng.uniform(0.15, 0.6)
        shade, sway, bend = rng.uniform(0.55, 1.0), rng.normal(0, 0.35), rng.normal(0, 0.3)
        x, y = self._x - at[0], self._y - at[1]
        off = x - sway * y - bend * y * y
        stem = np.clip((rng.uniform(0.025, 0.05) - np.abs(off)) * focus + 0.5, 0, 1) * (y > 0)
        image += (_STEM * (shade * (1 - 4 * off)) - image) * stem
        for _ in range(rng.integers(0, 4)):
            angle, length, start = rng.uniform(0, math.tau), rng.uniform(0.6, 1.3), rng.uniform(0.2, 0.9)
            c, s = math.cos(angle) / length, math.sin(angle) / length
            dx, dy = x - (sway + bend * start) * start, y - start
            texels = sample(self._leaf, (dx * c + dy * s).ravel(), (dy * c - dx * s).ravel()).reshape(4, *x.shape)
            cover = np.clip(texels[3] * (focus * length) + 0.5, 0, 1)
            image += (texels[:3] * (shade * rng.uniform(0.6, 1.0)) - image) * cover

    def _draw_flower(
        self, image: Array, flower: Flower, at: tuple[np.float32, np.float32], rng: np.random.Generator
    ) -> None:
        """The flower itself, sharp, into image (3,S,S)."""
        radius, stance = np.float32(rng.uniform(0.52, 0.94)), _draw_stance(rng, upright=flower.habit.lip > 0)
        x, y = ((self._fine_x - at[0]) / radius).ravel(), ((self._fine_y - at[1]) / radius).ravel()
        fine_size = self.image_size * _SUPERSAMPLING
        canvas, where = draw_bloom(flower, stance, x, y, fine_size / 2 * float(radius), rng)
        layer = np.zeros((4, fine_size**2), np.float32)
        layer[:3, where], layer[3, where] = canvas.colour * canvas.cover, canvas.cover
        pooled = _pool(layer, self.image_size)
        image *= 1 - pooled[3]
        image += pooled[:3]


def _draw_stance(rng: np.random.Generator, upright: bool) -> Stance:
    """A view anyone might photograph; a flower with a lip hangs it down, within what the wind allows."""
    sun, hardness = rng.uniform(0, math.tau), rng.uniform(0.1, 0.45)
    down, anyhow = rng.normal(math.pi / 2, 0.3), rng.uniform(0, math.tau)
    return Stance(
        rotation=down if upright else anyhow,
        lean=rng.uniform(0, math.tau),
        tilt=rng.uniform(0, 1.0),
        openness=rng.normal(0, 0.12),
        light=(math.cos(sun) * hardness, math.sin(sun) * hardness),
    )


def _pixel_grid(size: int) -> tuple[Array, Array]:
    """Coordinates x and y (size,size) of the middles of the pixels."""
    middles = ((np.arange(size) + 0.5) * (2 / size) - 1).astype(np.float32)
    x, y = np.meshgrid(middles, middles)
    return x, y


def _pool(fine: Array, size: int) -> Array:
    """Averages over squares of fine pixels, (C, P) to (C, size, size)."""
    rows = fine.reshape(len(fine), size, _SUPERSAMPLING, -1).sum(2)
    blocks = rows.reshape(len(fine), size, size, _SUPERSAMPLING)
    return np.asarray(sum(blocks[..., i] for i in range(_SUPERSAMPLING)) / np.float32(_SUPERSAMPLING**2))


def _smoothing(cells: int, size: int) -> Array:
    """(size, cells) weights that turn random numbers into a smooth curve through them of the same variance."""
    distance = ((np.arange(size) + 0.5) / size * (cells - 1))[:, None] - np.arange(cells)
    weights = np.exp(-(distance**2) / 0.6)
    return np.asarray(weights / np.sqrt((weights**2).sum(1, keepdims=True)), np.float32)
