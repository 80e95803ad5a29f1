"""The centres of flowers: stamens, discs, coronas. All ours."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from pyeqgan.data.synthetic.painting import Field, Texture, grid, smooth, texture
from pyeqgan.data.synthetic.species import Colour, Palette

_TEXELS = 72  # per radius of the centre

PISTIL: Colour = (150, 178, 84)


class Drawing:
    """Colours (3,h,w) and the distance field (h,w) of what has been drawn so far, the last on top."""

    def __init__(self, v: Field, u: Field) -> None:
        self.v, self.u = v, u
        self.radius, self.angle = np.hypot(v, u), np.arctan2(u, v)
        self.colour = np.zeros((3, *v.shape))
        self.inside = np.full(v.shape, -1.0)

    def draw(self, inside: Field, colour: Colour | Field) -> None:
        """Lay a shape over the rest."""
        paint = np.asarray(colour, dtype=float)
        paint = paint.reshape(3, 1, 1) if paint.ndim == 1 else paint
        near = np.where(self.inside > -0.02, smooth(inside, -0.02, 0.02), inside > self.inside)
        self.colour += (paint - self.colour) * near
        self.inside = np.maximum(self.inside, inside)

    def stroke(self, angle: float, start: float, stop: float, width: float, colour: Colour | Field) -> None:
        """A straight line outwards from the middle."""
        along = self.v * math.cos(angle) + self.u * math.sin(angle)
        across = self.u * math.cos(angle) - self.v * math.sin(angle)
        self.draw(width - np.hypot(across, along - np.clip(along, start, stop)), colour)

    def dot(self, angle: float, at: float, radius: float, colour: Colour | Field, squeeze: float = 1.0) -> None:
        """A dot at distance `at`, `squeeze` times as long outwards as across."""
        along = self.v * math.cos(angle) + self.u * math.sin(angle) - at
        across = self.u * math.cos(angle) - self.v * math.sin(angle)
        self.draw(radius - np.hypot(across, along / squeeze), colour)

    def disc(self, radius: float, colour: Colour, rim: float = 0.7) -> None:
        """A dome, darker towards its rim."""
        shade = 1 - (1 - rim) * np.clip(self.radius / radius, 0, 1) ** 2
        self.draw(radius - self.radius, np.multiply.outer(colour, shade))

    def florets(self, count: int, radius: float, size: float, colour: Colour) -> None:
        """Dots in the golden spiral of a sunflower."""
        for i in range(count):
            at = radius * math.sqrt((i + 0.5) / count)
            self.dot(i * math.pi * (3 - math.sqrt(5)), at, size, colour)


def _pollen(d: Drawing, p: Palette) -> None:
    d.disc(0.95, p.centre)
    d.florets(60, 0.92, 0.055, _mid(p.centre, (255, 255, 220), 0.5))


def _seeds(d: Drawing, p: Palette) -> None:
    d.disc(0.95, p.dark, 0.9)
    d.florets(110, 0.95, 0.045, _mid(p.dark, p.centre, 0.55))
    d.disc(0.25, _mid(p.dark, PISTIL, 0.5))


def _pistil(d: Drawing, p: Palette) -> None:
    d.disc(0.95, PISTIL, 0.6)
    for i in range(3):
        d.dot(i * math.tau / 3, 0.38, 0.26, _mid(PISTIL, (255, 255, 220), 0.5))


def _stamens(d: Drawing, p: Palette) -> None:
    for i in range(6):
        angle = i * math.tau / 6 + 0.13 * (i % 2)
        d.stroke(angle, 0.0, 0.78, 0.035, _mid(p.second, (250, 250, 230), 0.6))
        d.dot(angle, 0.82, 0.17, p.dark, 0.5)
    d.disc(0.16, PISTIL)


def _tuft(d: Drawing, p: Palette) -> None:
    for i in range(34):
        angle, reach = i * 2.399963, 0.45 + 0.45 * ((i * 7) % 11) / 11
        d.stroke(angle, 0.1, reach, 0.02, _mid(p.dark, p.centre, 0.4))
        d.dot(angle, reach, 0.085, p.centre if i % 3 else _mid(p.centre, p.dark, 0.35))
    d.disc(0.3, p.dark)


def _corona(d: Drawing, p: Palette) -> None:
    rim = 0.9 + 0.06 * np.cos(12 * d.angle)
    depth = 0.45 + 0.55 * smooth(d.radius, 0.2, 0.85) + 0.12 * smooth(d.radius, 0.7, 0.9)
    pleats = 1 + 0.06 * np.cos(24 * d.angle) * smooth(d.radius, 0.2, 0.6)
    d.draw(rim - d.radius, np.multiply.outer(_mid(p.centre, p.accent, 0.35), depth * pleats))
    d.disc(0.2, _mid(PISTIL, p.centre, 0.5))


def _button(d: Drawing, p: Palette) -> None:
    d.disc(0.95, p.dark, 0.6)
    for i in range(18):
        d.dot(i * math.tau / 18, 0.78, 0.075, p.centre)


def _starlet(d: Drawing, p: Palette) -> None:
    star = (0.62 + 0.34 * np.cos(5 * d.angle) - d.radius) / 1.8
    d.draw(star, np.multiply.outer(p.centre, 0.75 + 0.25 * smooth(d.radius, 0.0, 0.6)))
    d.disc(0.2, p.dark)


def _ring(d: Drawing, p: Palette) -> None:
    d.disc(0.95, p.centre, 0.85)
    d.disc(0.5, p.dark)


def _filaments(d: Drawing, p: Palette) -> None:
    bands = smooth(d.radius, 0.5, 0.56) - 0.8 * smooth(d.radius, 0.74, 0.8)
    colours = np.array(p.dark).reshape(3, 1, 1) * (1 - bands) + np.array([246, 244, 240]).reshape(3, 1, 1) * bands
    for i in range(36):
        d.stroke(i * math.tau / 36, 0.2, 0.84 + 0.1 * (i % 2), 0.03, colours)
    d.disc(0.3, PISTIL)
    for i in range(5):
        d.dot(i * math.tau / 5, 0.34, 0.1, p.centre)


def _column(d: Drawing, p: Palette) -> None:
    d.disc(0.3, p.dark)
    d.stroke(0.0, 0.0, 0.85, 0.045, _mid(p.centre, (255, 250, 220), 0.4))
    for i in range(16):
        side = 1.0 if i % 2 else -1.0
        d.dot(side * (0.24 - 0.1 * i / 16), 0.35 + 0.5 * i / 16, 0.05, p.centre)
    for side in (-0.1, 0.0, 0.1):
        d.dot(side, 0.93, 0.05, p.accent)


def _mid(a: Colour, b: Colour, weight: float) -> Colour:
    red, green, blue = (round(x + (y - x) * weight) for x, y in zip(a, b, strict=True))
    return red, green, blue


_DRAWINGS: dict[str, Callable[[Drawing, Palette], None]] = {
    "pollen": _pollen,
    "seeds": _seeds,
    "pistil": _pistil,
    "stamens": _stamens,
    "tuft": _tuft,
    "corona": _corona,
    "button": _button,
    "starlet": _starlet,
    "ring": _ring,
    "filaments": _filaments,
    "column": _column,
}

RADII = {
    "pollen": 0.26,
    "seeds": 0.42,
    "pistil": 0.13,
    "stamens": 0.52,
    "tuft": 0.36,
    "corona": 0.36,
    "button": 0.22,
    "starlet": 0.32,
    "ring": 0.17,
    "filaments": 0.58,
    "column": 0.55,
}
"""Radius of each centre in petal lengths."""


def centre(kind: str, palette: Palette, detail: int) -> Texture:
    """The centre of a flower on the unit circle; `detail` texels a side are averaged to one."""
    v, u = grid((-1.1, 1.1), 1.1, 1 / _TEXELS, detail)
    drawing = Drawing(v, u)
    _DRAWINGS[kind](drawing, palette)
    return texture(drawing.colour, drawing.inside, (v[0, 0], u[0, 0]), 1 / _TEXELS, detail)
