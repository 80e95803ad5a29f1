"""The colours of a landscape: one hue for all of it; lightness, saturation and texture tell the classes. All ours.

A class is as light as no other, in luma, whatever the hue: a texture stays within its class, and an outline between
two classes is an edge in grey as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from pyeqgan.data.images import Pixels
from pyeqgan.data.layouts.embedded.landscape import CLASSES, Array, Grid, Landscape

Texture = Callable[[Array, Array, Grid, np.random.Generator], Array]
"""Of points x, y (P,) of a grid, by how much each is lighter, as a share of its lightness: (P,)."""


def paint(landscape: Landscape, rng: np.random.Generator) -> Pixels:
    """The picture uint8 (H,W,3) of a landscape; `rng` decides the hue and where each texture begins."""
    grid, tint = landscape.grid, _tint(rng.uniform(0, math.tau))
    shape = landscape.labels.shape
    x, y = (np.broadcast_to(points, shape).ravel() for points in (grid.x, grid.y))
    labels = landscape.labels.ravel()
    image = np.empty((labels.size, 3), np.uint8)
    for label, coat in enumerate(COATS):
        shifts = rng.integers(2**63)  # a class that is not seen takes nothing from the others
        where = np.flatnonzero(labels == label)
        if where.size:
            light = 1 + coat.texture(x[where], y[where], grid, np.random.default_rng(shifts))
            levels = np.multiply.outer(light, 255 * _colour(coat, tint))
            image[where] = np.rint(np.clip(levels, 0, 255, out=levels), out=levels)
    return image.reshape(*shape, 3)


def _tint(hue: float) -> Array:
    """A direction in RGB (3,) without luma (BT.601): Cr and Cb on a circle."""
    red, blue = math.cos(hue), math.sin(hue)
    return np.array((1.402 * red, -0.714 * red - 0.344 * blue, 1.772 * blue), np.float32)


def _colour(coat: Coat, tint: Array) -> Array:
    """RGB (3,) in [0,1]: so much of the tint as the saturation says, 1 being what can be shown at this lightness."""
    room = np.where(tint > 0, 1 - coat.lightness, coat.lightness) / np.maximum(np.abs(tint), 1e-6)
    return np.asarray(coat.lightness + coat.saturation * room.min() * tint, np.float32)


def _gradient(x: Array, y: Array, grid: Grid, rng: np.random.Generator) -> Array:
    """Lighter towards the ground."""
    return np.asarray(0.12 * y / np.float32(grid.reach[1]) + 0.02)


def _noise(x: Array, y: Array, grid: Grid, rng: np.random.Generator) -> Array:
    """Random values on a lattice, and smooth between."""
    cells, step = 24, 0.13
    lattice = rng.uniform(-0.25, 0.25, cells * cells).astype(np.float32)
    column, u = np.divmod(x * np.float32(1 / step), 1)
    row, v = np.divmod(y * np.float32(1 / step), 1)
    corner = row.astype(np.intp) * cells + column.astype(np.intp)
    u, v = u * u * (3 - 2 * u), v * v * (3 - 2 * v)
    a, b, c, d = (lattice.take(corner + offset, mode="wrap") for offset in (0, 1, cells, cells + 1))
    return np.asarray(a + (b - a) * u + ((c - a) + (a - b - c + d) * u) * v)


def _furrows(x: Array, y: Array, grid: Grid, rng: np.random.Generator) -> Array:
    """Diagonal stripes."""
    return np.asarray(0.09 * np.sin((0.5 * x + 0.87 * y) * np.float32(math.tau / 0.22) + _phase(rng)))


def _ripples(x: Array, y: Array, grid: Grid, rng: np.random.Generator) -> Array:
    """Level stripes that waver."""
    bend = np.sin(x * np.float32(math.tau / 0.5) + _phase(rng))
    return np.asarray(0.055 * np.sin(y * np.float32(math.tau / 0.16) + bend + _phase(rng)))


def _dots(x: Array, y: Array, grid: Grid, rng: np.random.Generator) -> Array:
    """Light dots in a square lattice that stands on its corner."""
    scale = np.float32(math.tau / 0.19)
    return np.asarray(0.8 * np.maximum(np.sin(scale * x + _phase(rng)) * np.sin(scale * y + _phase(rng)), 0) - 0.1)


def _checks(x: Array, y: Array, grid: Grid, rng: np.random.Generator) -> Array:
    """A chequerboard."""
    scale = np.float32(math.tau / 0.26)
    cells = np.sin(scale * x + _phase(rng)) * np.sin(scale * y + _phase(rng))
    return np.asarray(0.05 * np.clip(4 * cells, -1, 1) - 0.03)


def _phase(rng: np.random.Generator) -> np.float32:
    phase: np.float32 = np.float32(rng.uniform(0, math.tau))
    return phase


class Coat(NamedTuple):
    """What a class is painted with."""

    lightness: float
    saturation: float
    texture: Texture


_COATS = {
    "sky": Coat(0.80, 0.50, _gradient),
    "hills": Coat(0.30, 0.35, _noise),
    "field": Coat(0.52, 0.75, _furrows),
    "water": Coat(0.72, 0.25, _ripples),
    "tree": Coat(0.13, 0.80, _dots),
    "house": Coat(0.97, 0.50, _checks),
}
COATS = tuple(_COATS[name] for name in CLASSES)
