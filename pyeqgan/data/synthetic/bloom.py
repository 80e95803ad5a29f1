"""A flower seen from one side: its petals and its centre laid over each other. All ours.

Every point of the image is carried back into the plane of the flower, where it can only meet two petals of a ring:
the two it lies between. So a ring costs two look-ups a point however many petals it has.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pyeqgan.data.synthetic.painting import Texture
from pyeqgan.data.synthetic.species import Habit

Array = NDArray[np.float32]
Pair = tuple[float, float]

_LONGEST = 1.2  # a petal is at most this long, all its variations taken together


@dataclass(frozen=True)
class Flower:
    """The painted parts of a species."""

    petals: int
    habit: Habit
    rings: tuple[Texture, ...]
    """The petal of each whorl of the habit."""
    centre: Texture
    centre_radius: float


@dataclass(frozen=True)
class Stance:
    """How a flower stands to the camera and the light, angles in radians."""

    rotation: float
    """Direction in the image of the flower's first petal."""
    lean: float
    """Direction in the image along which the flower is foreshortened."""
    tilt: float
    """Between the flower's axis and the camera's."""
    openness: float
    """Added to the cup of the habit."""
    light: Pair
    """Slope of the shading along x and y of the image."""


class Canvas:
    """Colours (3,P) and coverage (P,) of what is drawn at P points; the last drawn lies on top."""

    def __init__(self, points: int) -> None:
        self.colour = np.zeros((3, points), np.float32)
        self.cover = np.zeros(points, np.float32)

    def lay(self, colour: Array, inside: Array, pixels: float | Array, shadow: float) -> None:
        """Draw colours (3,P) where `inside` is positive; what is below darkens within `shadow` of the outline.

        `inside` is a distance, `pixels` how many pixels its unit is: the edge is a ramp one pixel wide.
        """
        cover = np.clip(inside * pixels + 0.5, 0, 1)
        self.colour *= 1 - 0.4 * np.clip(1 + inside * (1 / shadow), 0, 1)
        self.colour += (colour - self.colour) * cover
        self.cover += (1 - self.cover) * cover


def draw_bloom(
    flower: Flower, stance: Stance, x: Array, y: Array, pixels: float, rng: np.random.Generator
) -> tuple[Canvas, NDArray[np.intp]]:
    """Draw a flower seen at points x, y (P,) around its middle, in petal lengths.

    `pixels` is how many pixels a petal is long; `rng` makes each petal a little different. Returns the canvas of
    those points that the flower may cover, and their indices.
    """
    x, y, lift, light = _unproject(flower.habit, stance, x, y)
    near = np.flatnonzero(x * x + y * y < _LONGEST**2)
    x, y = x[near], y[near]
    canvas = Canvas(near.size)
    turn = np.arctan2(y, x) * np.float32(1 / math.tau)
    for ring in range(len(flower.rings)):
        _draw_ring(canvas, flower, ring, (x, y, turn), light, pixels, rng)
    radius = flower.centre_radius
    v, u = x / radius - 0.12 * lift[0], y / radius - 0.12 * lift[1]
    texels = sample(flower.centre, v, u)
    canvas.lay(texels[:3] * (1 + light[0] * v + light[1] * u), texels[3], radius * pixels, 0.12)
    return canvas, near


def sample(texture: Texture, v: Array, u: Array) -> Array:
    """Texels (4,P) nearest to points (P,); beyond the border the nearest on it, which is outside the outline."""
    _, height, width = texture.texels.shape
    scale = 1 / texture.step
    rows = np.clip(v * scale + (0.5 - texture.origin[0] * scale), 0, height - 1).astype(np.intp)
    columns = np.clip(u * scale + (0.5 - texture.origin[1] * scale), 0, width - 1).astype(np.intp)
    return np.asarray(texture.texels.reshape(4, -1).take(rows * width + columns, axis=1))


def _unproject(habit: Habit, stance: Stance, x: Array, y: Array) -> tuple[Array, Array, Pair, Pair]:
    """Points x, y of the image in the plane of the flower; there also: the shift of a unit of height, and the light.

    A petal rises by cup · r² over the plane, which moves it along the lean. The equation for r that this makes is
    solved by two fixed-point steps, which the bound on the rise keeps tame.
    """
    c, s = math.cos(stance.rotation), math.sin(stance.rotation)
    lean = np.array([math.cos(stance.lean), math.sin(stance.lean)])
    turn = np.array([[c, s], [-s, c]])
    unproject = (turn @ (np.eye(2) + (1 / math.cos(stance.tilt) - 1) * np.outer(lean, lean))).astype(np.float32)
    lift = (turn @ lean * math.tan(stance.tilt)).astype(np.float32)
    steepest = 0.45 / (math.tan(stance.tilt) + 0.01)
    rise = np.float32(np.clip(habit.cup + stance.openness, -steepest, steepest))
    flat_x, flat_y = unproject[0, 0] * x + unproject[0, 1] * y, unproject[1, 0] * x + unproject[1, 1] * y
    x, y = flat_x, flat_y
    for _ in range(2):
        height = np.minimum(x * x + y * y, 1.5) * rise
        x, y = flat_x - height * lift[0], flat_y - height * lift[1]
    if habit.twist:  # a turn that grows with the distance from the middle bends every petal alike
        bend = np.float32(habit.twist) * np.sqrt(x * x + y * y)
        x, y = x - bend * y, y + bend * x
    light_x, light_y = (turn @ stance.light).tolist()
    return x, y, (float(lift[0]), float(lift[1])), (light_x, light_y)


def _draw_ring(
    canvas: Canvas,
    flower: Flower,
    ring: int,
    points: tuple[Array, Array, Array],
    light: Pair,
    pixels: float,
    rng: np.random.Generator,
) -> None:
    """One ring of petals, each overlapping the next the same way round; points are x, y and the angle in turns."""
    x, y, turn = points
    habit, count, texture = flower.habit, flower.petals, flower.rings[ring]
    whorl = habit.whorls[ring]
    lengths = np.clip(1 + habit.unruly * rng.standard_normal(count), 0.7, 1.15)
    swings = np.clip(0.5 * habit.unruly * rng.standard_normal(count), -0.2, 0.2)
    petals = np.arange(-count - 1, count + 1)  # one turn to either side, so that no remainder is needed
    angle = (petals + whorl.phase + swings[petals % count]) * (math.tau / count)
    c, s = np.cos(angle), np.sin(angle)
    length = whorl.length * lengths[petals % count] * (1 - habit.lip * (1 - c) / 2)
    along_light = (c * light[0] + s * light[1]) * (0.5 - 1.5 * habit.cup)
    across_light = (c * light[1] - s * light[0]) * (0.6 / -texture.origin[1])
    table = np.stack([c / length, s / length, along_light, across_light, length * pixels]).astype(np.float32)
    before = np.floor(turn * count - np.float32(whorl.phase)).astype(np.intp) + (count + 1)
    for petal in (before, before + 1):
        c, s, along, across, scale = table.take(petal, axis=1)
        v, u = x * c + y * s, y * c - x * s
        texels = sample(texture, v, u)
        canvas.lay(texels[:3] * (1 + along * v + across * u), texels[3], scale, 0.07)
