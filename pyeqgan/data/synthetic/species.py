"""The species of the embedded flowers: six traits each, and the tables the traits are taken from. All ours.

Each trait has eleven values, so a species is a word of six symbols over the field of 11 elements. We take the words
of a Reed-Solomon code: symbol t of species (a, b, c) is a + b·t + c·t² mod 11. Two polynomials of degree two agree
in at most two points, so two species never share more than two of the six traits (one, among species of equal c).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Colour = tuple[int, int, int]
_FIELD = 11
MAX_SPECIES = _FIELD**3


@dataclass(frozen=True)
class Shape:
    """Outline of a petal of length 1: half-width at v in [0,1] proportional to v^base · (1-v)^tip."""

    name: str
    base: float
    tip: float
    crowding: float
    """Full width over the room between two neighbours; above 1 petals overlap."""
    edge: str = "smooth"


@dataclass(frozen=True)
class Palette:
    """Colours of a petal (main, second, accent) and of the centre of the flower (light, dark)."""

    name: str
    main: Colour
    second: Colour
    accent: Colour
    centre: Colour
    dark: Colour


@dataclass(frozen=True)
class Whorl:
    """One ring of petals, in units of the outermost one; `phase` in fractions of the angle between two petals."""

    length: float = 1.0
    phase: float = 0.0
    sepals: bool = False


@dataclass(frozen=True)
class Habit:
    """How the petals stand: rings from the back to the front, and what bends them."""

    name: str
    whorls: tuple[Whorl, ...] = (Whorl(),)
    cup: float = 0.15
    """Height of the petals' ends over the centre, in petal lengths: a bowl if positive, bent back if negative."""
    twist: float = 0.0
    """Sideways bend of each petal, as of a windmill."""
    lip: float = 0.0
    """How much shorter the petals opposite the lowest one are."""
    unruly: float = 0.05
    """Spread of the lengths and angles of the petals."""


PETAL_COUNTS = (3, 4, 5, 6, 7, 8, 9, 11, 13, 16, 20)

SHAPES = (
    Shape("round", 0.75, 0.40, 1.35),
    Shape("elliptic", 0.60, 0.60, 1.00),
    Shape("lance", 0.65, 1.10, 0.95),
    Shape("strap", 0.30, 0.22, 0.80),
    Shape("heart", 0.90, 0.40, 1.25, "notch"),
    Shape("spoon", 1.90, 0.45, 1.00),
    Shape("fringed", 0.85, 0.22, 1.30, "fringe"),
    Shape("toothed", 0.80, 0.12, 1.05, "teeth"),
    Shape("needle", 0.50, 0.80, 0.42),
    Shape("drop", 0.45, 1.60, 1.20),
    Shape("split", 0.80, 0.45, 0.95, "split"),
)

PATTERNS = (
    "plain", "blend", "throat", "eye", "margin", "veins", "star", "bands", "spots", "tipped", "chequer",
)  # fmt: skip

PALETTES = (
    Palette("crimson", (200, 22, 44), (92, 4, 28), (250, 190, 60), (244, 200, 70), (70, 12, 20)),
    Palette("tangerine", (248, 128, 22), (206, 40, 14), (110, 20, 10), (250, 214, 90), (92, 36, 12)),
    Palette("lemon", (250, 222, 40), (240, 140, 12), (146, 50, 16), (196, 150, 30), (84, 52, 18)),
    Palette("snow", (246, 246, 240), (190, 214, 132), (116, 150, 60), (246, 212, 56), (150, 120, 30)),
    Palette("rose", (244, 140, 176), (206, 34, 108), (252, 236, 240), (240, 226, 150), (124, 30, 60)),
    Palette("fuchsia", (206, 24, 146), (252, 220, 240), (90, 8, 84), (250, 240, 200), (80, 10, 60)),
    Palette("lilac", (184, 148, 226), (104, 56, 176), (250, 226, 120), (238, 226, 160), (70, 40, 110)),
    Palette("azure", (72, 128, 230), (222, 236, 252), (26, 44, 140), (252, 226, 90), (30, 44, 110)),
    Palette("violet", (86, 34, 158), (200, 150, 240), (248, 206, 50), (250, 212, 70), (34, 12, 60)),
    Palette("peach", (252, 196, 150), (240, 112, 92), (166, 40, 60), (214, 220, 120), (130, 60, 40)),
    Palette("porcelain", (250, 236, 236), (196, 16, 60), (110, 6, 50), (240, 200, 90), (96, 16, 44)),
)

CENTRES = (
    "pollen", "seeds", "pistil", "stamens", "tuft", "corona", "button", "starlet", "ring", "filaments", "column",
)  # fmt: skip

HABITS = (
    Habit("flat"),
    Habit("cupped", cup=0.55),
    Habit("reflexed", cup=-0.4),
    Habit("double", (Whorl(), Whorl(0.68, 0.5)), cup=0.3),
    Habit("full", (Whorl(), Whorl(0.76, 0.5), Whorl(0.5)), cup=0.35),
    Habit("calyx", (Whorl(1.0, 0.5, sepals=True), Whorl(0.92))),
    Habit("windmill", twist=0.35, cup=0.1),
    Habit("lipped", lip=0.45, cup=0.2),
    Habit("paired", (Whorl(), Whorl(0.86, 0.5)), cup=0.05),
    Habit("ragged", unruly=0.16, cup=0.1),
    Habit("goblet", cup=0.85),
)


@dataclass(frozen=True)
class Species:
    """What makes one class of flowers; nothing of it changes between its images."""

    petals: int
    shape: Shape
    pattern: str
    palette: Palette
    centre: str
    habit: Habit


def draw_species(seed: int, index: int) -> Species:
    """Species `index` of a seed, 0 ≤ index < MAX_SPECIES; it does not depend on how many are used."""
    block, position = divmod(index, _FIELD**2)
    shuffle = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0,)))
    symbols = [shuffle.permutation(_FIELD) for _ in range(6)]
    order = [shuffle.permutation(_FIELD**2) for _ in range(block + 1)][block]
    a, b = divmod(int(order[position]), _FIELD)
    count, shape, pattern, palette, centre, habit = (
        int(symbols[t][(a + b * t + block * t * t) % _FIELD]) for t in range(6)
    )
    return Species(
        PETAL_COUNTS[count], SHAPES[shape], PATTERNS[pattern], PALETTES[palette], CENTRES[centre], HABITS[habit]
    )  # fmt: skip
