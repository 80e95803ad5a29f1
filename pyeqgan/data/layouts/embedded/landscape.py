"""Which class each point of a landscape has: sky, hills before it, a field, lakes, houses and trees on it. All ours.

Positions are in halves of the picture's shorter side, from its middle, x to the right and y down: a landscape is the
same at any size. What stands nearer is lower in the picture, larger, and hides what is behind it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Mask = NDArray[np.bool_]

CLASSES = ("sky", "hills", "field", "water", "tree", "house")
SKY, HILLS, FIELD, WATER, TREE, HOUSE = range(len(CLASSES))


@dataclass(frozen=True)
class Grid:
    """The points in the middles of the pixels, row by row and column by column."""

    x: Array
    """(1,W), ascending by one step."""
    y: Array
    """(H,1)."""
    reach: tuple[float, float]
    """Largest |x| and |y| of the whole picture, of which the grid may be a part."""

    def within(self, left: float, top: float, right: float, bottom: float) -> tuple[slice, slice]:
        """The rows and columns that a box covers."""
        rows = np.searchsorted(self.y[:, 0], (top, bottom))
        columns = np.searchsorted(self.x[0], (left, right))
        return slice(*rows.tolist()), slice(*columns.tolist())


class Landscape:
    """Class int64 (H,W) and thing int32 (H,W) of each point of a grid; sky, hills and field are the thing 0."""

    def __init__(self, grid: Grid, rng: np.random.Generator) -> None:
        """Draw one; `rng` decides everything."""
        self.grid = grid
        self.horizon = float(rng.uniform(-0.4, 0.05)) * grid.reach[1]
        ridge = self.horizon - rng.uniform(0.12, 0.5) * (1.0 + _waves(grid.x, rng))
        self.labels = np.full((grid.y.size, grid.x.size), FIELD, np.int64)
        self.labels[grid.y < self.horizon + 0.08 * _waves(grid.x, rng)] = HILLS
        self.labels[grid.y < ridge] = SKY
        self.things = np.zeros(self.labels.shape, np.int32)
        self._count = 0
        for _ in range(rng.integers(1, 3)):
            self._dig_lake(rng)
        kinds = [self._build_house] * rng.integers(1, 4) + [self._plant_tree] * rng.integers(2, 7)
        nearness = np.sort(rng.uniform(0.0, 0.9, len(kinds)))
        for index, near in zip(rng.permutation(len(kinds)), nearness.tolist(), strict=True):
            kinds[index](near, rng)

    def _dig_lake(self, rng: np.random.Generator) -> None:
        near = rng.uniform(0.25, 0.95)
        at_x, at_y = self._place(near, rng)
        width = rng.uniform(0.45, 1.0) * (0.5 + 0.5 * near)
        height, turns, phase = width * rng.uniform(0.3, 0.5), rng.integers(2, 5), rng.uniform(0, math.tau)

        def inside(x: Array, y: Array) -> Mask:
            u, v = x / width, y / height
            shore = 1 + 0.18 * np.sin(turns * np.arctan2(v, u) + phase)
            return np.asarray(u * u + v * v < shore * shore)

        self._draw(WATER, (at_x, at_y), (1.2 * width, 1.2 * height, 1.2 * height), inside, ground=FIELD)

    def _build_house(self, near: float, rng: np.random.Generator) -> None:
        half = 0.5 * rng.uniform(0.45, 0.75) * _scale(near)
        wall, roof = half * rng.uniform(1.1, 1.9), half * rng.uniform(0.6, 1.2)

        def inside(x: Array, y: Array) -> Mask:
            gable = 1.15 * half * (1 + (y + wall) / roof)
            return np.asarray(np.abs(x) < np.where(y > -wall, half, gable))

        self._draw(HOUSE, self._place(near, rng), (1.2 * half, wall + roof, 0.0), inside)

    def _plant_tree(self, near: float, rng: np.random.Generator) -> None:
        radius, conifer = rng.uniform(0.22, 0.36) * _scale(near), rng.random() < 0.35
        stem = radius * rng.uniform(0.3, 0.9)
        bumps, phase = rng.integers(4, 8), rng.uniform(0, math.tau)

        def broadleaf(x: Array, y: Array) -> Mask:
            v = y + stem + radius
            crown = radius * (1 + 0.12 * np.sin(bumps * np.arctan2(v, x) + phase))
            return np.asarray((x * x + v * v < crown * crown) | ((np.abs(x) < 0.2 * radius) & (v > 0)))

        def fir(x: Array, y: Array) -> Mask:
            tip = y + 0.5 * stem + 2.8 * radius
            return np.asarray(np.abs(x) < np.where(y < -0.5 * stem, 0.33 * tip, 0.2 * radius))

        extent = (1.2 * radius, stem + 2.8 * radius, 0.0)
        self._draw(TREE, self._place(near, rng), extent, fir if conifer else broadleaf)

    def _place(self, near: float, rng: np.random.Generator) -> tuple[float, float]:
        """Where on the field something stands: at the horizon with `near` 0, at the lower edge with 1."""
        reach_x, reach_y = self.grid.reach
        return float(rng.uniform(-1, 1)) * reach_x, self.horizon + 0.1 + near * (reach_y - self.horizon - 0.1)

    def _draw(
        self,
        label: int,
        at: tuple[float, float],
        extent: tuple[float, float, float],
        inside: Callable[[Array, Array], Mask],
        ground: int | None = None,
    ) -> None:
        """Draw a thing at a place that reaches so far to either side, up and down; on one class alone if told so."""
        side, up, down = extent
        rows, columns = self.grid.within(at[0] - side, at[1] - up, at[0] + side, at[1] + down)
        mask = inside(self.grid.x[:, columns] - np.float32(at[0]), self.grid.y[rows] - np.float32(at[1]))
        labels = self.labels[rows, columns]
        if ground is not None:
            mask &= labels == ground
        self._count += 1
        labels[mask] = label
        self.things[rows, columns][mask] = self._count


def _scale(near: float) -> float:
    return 0.55 + 0.6 * near


def _waves(x: Array, rng: np.random.Generator) -> Array:
    """A curve (1,W) within -1 and 1: the outline of hills."""
    slow, fast = rng.uniform(1.5, 3.0), rng.uniform(4.0, 7.0)
    phases = rng.uniform(0, math.tau, 2)
    return np.asarray(0.7 * np.sin(slow * x + phases[0]) + 0.3 * np.sin(fast * x + phases[1]), np.float32)
