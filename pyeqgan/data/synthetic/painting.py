"""The textures of a flower: a petal, a centre and a leaf, each painted once for a species. All ours.

A texture holds colours and the signed distance to an outline. Colours go on beyond the outline, so that a texture
may be filtered; the outline is drawn when the distance is sampled, without stairs at any resolution.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pyeqgan.data.synthetic.species import Palette, Shape, Species

Field = NDArray[np.floating]

_TEXELS = 256  # per petal length
_MARGIN = 0.08

_GREEN = Palette("green", (104, 150, 62), (58, 106, 44), (150, 178, 90), (0, 0, 0), (0, 0, 0))
_LEAF = Shape("leaf", 0.7, 1.0, 1.0)
_SEPAL = Shape("sepal", 0.65, 1.1, 0.95)


@dataclass(frozen=True)
class Texture:
    """Texels float32 (4,h,w): red, green, blue from 0 to 255, and the distance to the outline, positive inside.

    Rows run along v, columns along u; texel (i,j) is at (v,u) = origin + step·(i,j). A petal lies along v from its
    base at 0 to its tip at 1; a centre fills the unit circle. Distances are in the same unit.
    """

    texels: NDArray[np.float32]
    origin: tuple[float, float]
    step: float


def petal(species: Species, rng: np.random.Generator, detail: int) -> Texture:
    """The petal of a species, its fine print from `rng`; `detail` texels a side are averaged to one."""
    return _petal(species.shape, species.petals, species.pattern, species.palette, rng, detail)


def sepal(petals: int, detail: int) -> Texture:
    """A narrow green leaf of the calyx behind `petals` petals."""
    return _petal(_SEPAL, petals, "veins", _GREEN, np.random.default_rng(0), detail)


def leaf(detail: int) -> Texture:
    """A green leaf, the same for all species so that it betrays none."""
    return _petal(_LEAF, 7, "veins", _GREEN, np.random.default_rng(0), detail)


def _petal(shape: Shape, petals: int, pattern: str, palette: Palette, rng: np.random.Generator, detail: int) -> Texture:
    half_width, sector = _half_width(shape, petals) * rng.uniform(0.9, 1.1), 2 * math.pi / petals
    v, u = grid((-_MARGIN, 1 + _MARGIN), half_width + _MARGIN, 1 / _TEXELS, detail)
    inside = _outline(shape, v, u, half_width, sector)
    lateral = u / np.maximum(_profile(shape, np.clip(v, 0.02, 0.98)) * half_width, 0.02)
    colour = _painted(pattern, palette, _Surface(v, u, lateral, inside, half_width), rng)
    crease = 1 - 0.16 * np.exp(-((u / half_width / 0.08) ** 2)) * (1 - v)
    ribs = 1 + 0.035 * np.cos(lateral * math.pi * 7) * smooth(v, 0.0, 0.3)
    light = 0.74 + 0.26 * smooth(v, -0.05, 0.5) + 0.08 * smooth(inside, 0.05, 0.0)
    return texture(colour * (crease * ribs * light), inside, (v[0, 0], u[0, 0]), 1 / _TEXELS, detail)


def _half_width(shape: Shape, petals: int) -> float:
    """At the widest place, so that neighbours overlap as the shape's crowding says; never wider than long."""
    widest = shape.base / (shape.base + shape.tip)
    return min(max(shape.crowding * widest * math.tan(min(math.pi / petals, 1.0)), 0.035), 0.47)


def _profile(shape: Shape, v: Field) -> Field:
    """Half-width over its greatest value at v in [0,1]."""
    a, b = shape.base, shape.tip
    widest = a / (a + b)
    stalk = 0.12 * smooth(v, 0.6, 0.2)
    return np.asarray(np.maximum((v / widest) ** a, stalk) * ((1 - v) / (1 - widest)) ** b)


def _dented(edge: str, v: Field, s: Field) -> Field:
    """Distance along the petal, taken as longer wherever its tip falls short; s runs from -1 to 1 across."""
    if edge == "notch":
        return np.asarray(v + 0.17 * np.clip(1 - (s / 0.6) ** 2, 0, None))
    if edge == "fringe":
        return np.asarray(v + 0.10 * np.abs(np.sin(s * 9)) * smooth(v, 0.5, 1.0))
    if edge == "teeth":
        return np.asarray(v + 0.16 * np.abs(np.sin(s * math.pi * 1.5)) * smooth(v, 0.5, 1.0))
    if edge == "split":
        return np.asarray(v + 0.6 * np.clip(1 - np.abs(s) / 0.3, 0, None) * smooth(v, 0.25, 0.7))
    return v


def _outline(shape: Shape, v: Field, u: Field, half_width: float, sector: float) -> Field:
    """Signed distance to the petal's outline, to first order: that of its sides, its tip and the box around it."""
    bent = _dented(shape.edge, v, u / half_width)
    width = half_width * _profile(shape, np.clip(bent, 0, 0.98))  # short of 1, where a blunt tip's slope is infinite
    room = np.clip(v, 0, None) * math.tan(min(0.95 * sector, 1.4))  # a petal never reaches past its neighbours
    sides = _to_distance(np.minimum(width, room) - np.abs(u))
    box = np.minimum(np.minimum(v, 1 - v), half_width - np.abs(u))
    return np.asarray(np.minimum(np.minimum(sides, _to_distance(1 - bent)), box))


def _to_distance(field: Field) -> Field:
    """A field, positive inside, over its slope: to first order the distance to where it is 0."""
    along, across = np.gradient(field, 1 / _TEXELS)
    return np.asarray(field / np.maximum(np.hypot(along, across), 1.0))


@dataclass(frozen=True)
class _Surface:
    """Where each texel of a petal lies: along it, across it, `lateral` = across over the local half-width, inside."""

    v: Field
    u: Field
    lateral: Field
    inside: Field
    half_width: float


def _painted(pattern: str, palette: Palette, at: _Surface, rng: np.random.Generator) -> Field:
    """Colours (3,h,w) of a petal."""
    v, lateral, half_width = at.v, at.lateral, at.half_width
    tint = rng.uniform(0.93, 1.05, 3).reshape(3, 1, 1)
    main, second, accent = (
        np.array(colour).reshape(3, 1, 1) * tint for colour in (palette.main, palette.second, palette.accent)
    )

    def over(ground: Field, paint: Field, weight: Field) -> Field:
        return ground + (paint - ground) * weight

    ground = over(main, second, 0.12 * smooth(v, 0.4, 0.0)) + np.zeros((1, *v.shape))
    if pattern == "blend":
        return over(ground, second, smooth(v, 0.15, 0.9))
    if pattern == "throat":
        return over(ground, accent, smooth(v, 0.62, 0.2))
    if pattern == "eye":
        reach = rng.uniform(0.36, 0.5) * (1 - 0.25 * np.minimum(lateral**2, 1))
        return over(ground, second, smooth(v, reach + 0.02, reach - 0.02))
    if pattern == "margin":
        return over(ground, second, smooth(at.inside, 0.26 * half_width + 0.02, 0.12 * half_width + 0.01))
    if pattern == "veins":
        lines = smooth(np.cos(lateral * math.pi * rng.integers(3, 6)), 0.45, 0.9)
        return over(ground, second, lines * smooth(v, 1.0, 0.75))
    if pattern == "star":
        return over(ground, second, smooth(np.abs(lateral) + 0.35 * v, 0.62, 0.48))
    if pattern == "bands":
        wave = np.cos((v + 0.08 * np.minimum(lateral**2, 1)) * 2 * math.pi * rng.uniform(2.3, 3.4))
        return over(ground, second, smooth(wave, -0.1, 0.25))
    if pattern == "spots":
        return over(ground, accent, _spots(v, at.u, half_width, rng))
    if pattern == "tipped":
        return over(ground, accent, smooth(v - 0.12 * np.minimum(lateral**2, 1), 0.62, 0.74))
    if pattern == "chequer":
        cells = np.sin(lateral * math.pi * 1.5) * np.sin(v * math.pi * rng.uniform(6, 8))
        return over(ground, second, smooth(cells, -0.12, 0.12))
    return ground


def _spots(v: Field, u: Field, half_width: float, rng: np.random.Generator) -> Field:
    """Freckles, larger towards the base."""
    covered = np.zeros(v.shape)
    for _ in range(22):
        at_v, at_u = rng.uniform(0.2, 0.88), rng.uniform(-0.8, 0.8) * half_width
        radius = (0.055 - 0.03 * at_v) * (0.5 + 1.2 * half_width)
        distance = np.hypot((v - at_v) * 0.8, u - at_u)
        covered = np.maximum(covered, smooth(distance, radius * 1.2, radius * 0.8))
    return covered


def smooth(x: Field, start: float | Field, stop: float | Field) -> Field:
    """Cubic ramp from 0 at `start` to 1 at `stop`, which may be the smaller of the two."""
    t = np.clip((x - start) / (stop - start), 0.0, 1.0)
    return np.asarray(t * t * (3 - 2 * t))


def grid(rows: tuple[float, float], columns: float, step: float, detail: int) -> tuple[Field, Field]:
    """Coordinates (v, u) over rows × [-columns, columns], both sizes a multiple of `detail`."""
    height = math.ceil((rows[1] - rows[0]) / step / detail) * detail
    width = math.ceil(2 * columns / step / detail) * detail
    v = rows[0] + step * (np.arange(height) + 0.5)
    u = step * (np.arange(width) + 0.5 - width / 2)
    v, u = np.meshgrid(v, u, indexing="ij")
    return v, u


def texture(colour: Field, inside: Field, origin: tuple[float, float], step: float, detail: int) -> Texture:
    """A texture of colours (3,h,w) and distances (h,w), averaged over squares of `detail` texels a side."""
    texels = np.concatenate([colour, inside[None]])
    height, width = inside.shape
    blocks = texels.reshape(4, height // detail, detail, width // detail, detail)
    shift = step * (detail - 1) / 2
    return Texture(blocks.mean((2, 4)).astype(np.float32), (origin[0] + shift, origin[1] + shift), step * detail)
