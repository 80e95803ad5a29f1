import itertools
from dataclasses import replace

import numpy as np
import pytest

from pyeqgan.data import SyntheticFlowers
from pyeqgan.data.synthetic.bloom import Flower, Stance, draw_bloom
from pyeqgan.data.synthetic.centres import RADII, centre
from pyeqgan.data.synthetic.painting import leaf, petal, sepal
from pyeqgan.data.synthetic.species import (
    CENTRES,
    HABITS,
    MAX_SPECIES,
    PALETTES,
    PATTERNS,
    PETAL_COUNTS,
    SHAPES,
    Habit,
    Shape,
    Species,
    draw_species,
)
from pyeqgan.errors import UserError

TRAITS = (PETAL_COUNTS, SHAPES, PATTERNS, PALETTES, CENTRES, HABITS)


def _traits(species: Species) -> list[int]:
    values = (species.petals, species.shape, species.pattern, species.palette, species.centre, species.habit)
    return [table.index(value) for table, value in zip(TRAITS, values, strict=True)]


def test_no_two_species_share_more_than_two_of_six_traits(rng: np.random.Generator) -> None:
    seed = int(rng.integers(2**31))
    # Every species beside every other, at three places of the sequence that exercise equal and unequal blocks.
    for indices in (range(121), range(100, 260), rng.choice(MAX_SPECIES, 150, replace=False).tolist()):
        words = np.array([_traits(draw_species(seed, index)) for index in indices])
        shared = (words[:, None] == words).sum(-1)
        np.fill_diagonal(shared, 0)
        assert shared.max() <= (1 if indices == range(121) else 2)
        assert all(len(set(column)) == 11 for column in words.T.tolist())


def test_an_image_depends_on_seed_class_and_number_alone(rng: np.random.Generator) -> None:
    seed = int(rng.integers(2**31))
    few, many = SyntheticFlowers(3, 2, 48, seed), SyntheticFlowers(130, 9, 48, seed)
    many.image(1, 1)
    for c, i in ((2, 1), (0, 0)):
        assert np.array_equal(few.image(c, i), many.image(c, i))
    images = [few.image(c, i) for c in range(3) for i in range(2)] + [SyntheticFlowers(1, 1, 48, seed + 1).image(0, 0)]
    frames = [np.concatenate([image[0], image[:, 0], image[:, -1]]).ravel() for image in images]
    assert np.corrcoef(frames)[np.triu_indices(len(frames), 1)].max() < 0.99  # not even the backdrop is shared


@pytest.mark.parametrize("size", [32, 48, 80, 128, 256])
def test_any_size_gives_a_whole_picture(size: int) -> None:
    image = SyntheticFlowers(1, 1, size, 3).image(0, 0)
    assert image.shape == (size, size, 3) and image.dtype == np.uint8 and image.flags.c_contiguous
    assert image.std() > 8


def test_a_scene_is_the_same_at_any_size(rng: np.random.Generator) -> None:
    seed = int(rng.integers(2**31))
    small, large = SyntheticFlowers(25, 2, 32, seed), SyntheticFlowers(25, 2, 128, seed)
    same, other = [], []
    for c in range(25):
        pooled = [large.image(c, i).reshape(32, 4, 32, 4, 3).mean((1, 3)) for i in range(2)]
        same.append(np.abs(small.image(c, 0) - pooled[0]).mean())
        other.append(np.abs(small.image(c, 0) - pooled[1]).mean())
    assert np.mean(same) < 8 and np.mean(other) > 4 * np.mean(same)


def test_a_class_varies_as_much_as_classes_differ(rng: np.random.Generator) -> None:
    """Copying a reference pixel by pixel is no better an answer than copying another class."""
    flowers = SyntheticFlowers(24, 8, 32, int(rng.integers(2**31)))
    images = np.stack([[flowers.image(c, i) for i in range(8)] for c in range(24)]).astype(np.float32)
    within = np.mean([np.abs(images[:, i] - images[:, j]).mean() for i, j in itertools.combinations(range(8), 2)])
    between = np.mean([np.abs(images[c] - images[d]).mean() for c, d in itertools.combinations(range(24), 2)])
    assert 0.75 * between < within < between


def test_a_class_is_recognisable(rng: np.random.Generator) -> None:
    """The colours around the middle alone, which ignore shape, number and pattern, tell classes far above chance."""
    flowers = SyntheticFlowers(20, 16, 32, int(rng.integers(2**31)))
    images = np.stack([[flowers.image(c, i)[8:24, 8:24] for i in range(16)] for c in range(20)]) // 52
    codes = (images.astype(int) @ [25, 5, 1]).reshape(20, 16, -1)
    histograms = np.sqrt([[np.bincount(code, minlength=125) for code in row] for row in codes])
    known, asked = histograms[:, :12].mean(1), histograms[:, 12:].reshape(80, 125)
    answers = ((asked[:, None] - known) ** 2).sum(-1).argmin(1)
    assert (answers == np.repeat(np.arange(20), 4)).mean() > 0.3  # chance is 0.05


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_petals_are_closed(shape: Shape, rng: np.random.Generator) -> None:
    """Each petal has an inside, and its texture ends far enough outside that neither edge nor shadow goes on."""
    for count in PETAL_COUNTS:
        species = Species(count, shape, "plain", PALETTES[0], "ring", HABITS[0])
        texels = petal(species, rng, 2).texels
        inside = texels[3]
        assert np.isfinite(texels).all() and (inside > 0).mean() > 0.02
        border = np.concatenate([inside[0], inside[-1], inside[:, 0], inside[:, -1]])
        assert border.max() < -0.07
        v, u = np.indices(inside.shape) / 128  # texels of 1/256, two a side averaged
        body = np.stack([v[inside > -0.01], u[inside > -0.01]])  # a pointed tip is thinner than a texel
        beside = np.argwhere((inside < -0.01) & (inside > -0.03))
        for i, j in rng.choice(beside, 100):
            assert np.hypot(body[0] - v[i, j], body[1] - u[i, j]).min() < 0.02 - 5 * inside[i, j]


def test_every_pattern_and_centre_is_painted_differently(rng: np.random.Generator) -> None:
    seed = int(rng.integers(2**31))
    for palette in (PALETTES[i] for i in rng.choice(11, 2, replace=False)):
        petals = [
            petal(Species(5, SHAPES[0], pattern, palette, "ring", HABITS[0]), np.random.default_rng(seed), 4).texels
            for pattern in PATTERNS
        ]
        centres = [centre(kind, palette, 4).texels for kind in CENTRES]
        for textures in (petals, centres):
            for a, b in itertools.combinations(textures, 2):
                seen = (a[3] > 0) | (b[3] > 0)
                assert np.abs(a[:3] - b[:3])[:, seen].mean() > 2
    assert set(RADII) == set(CENTRES)


def test_leaf_and_sepal_are_green() -> None:
    for texture in (leaf(4), sepal(7, 4)):
        red, green, blue = texture.texels[:3, texture.texels[3] > 0].mean(1)
        assert green > red > blue


@pytest.mark.parametrize("habit", [h for h in HABITS if not h.whorls[0].sepals], ids=lambda habit: habit.name)
def test_a_flower_has_as_many_petals_as_its_species(habit: Habit, rng: np.random.Generator) -> None:
    """Seen from above, a circle around the centre meets each petal of a ring once; alternate rings double them."""
    for count in PETAL_COUNTS[3:-2]:  # with fewer they touch, with more the rings do
        species = Species(count, SHAPES[8], "plain", PALETTES[0], "ring", habit)
        flower = Flower(
            petals=count,
            habit=replace(habit, unruly=0.0),
            rings=(petal(species, rng, 1),) * len(habit.whorls),
            centre=centre("ring", PALETTES[0], 1),
            centre_radius=RADII["ring"],
        )
        rotation = rng.uniform(0, 2 * np.pi)
        angle = rotation + (np.arange(3600) + 0.5) * (2 * np.pi / 3600)
        x, y = (0.45 * np.cos(angle)).astype(np.float32), (0.45 * np.sin(angle)).astype(np.float32)
        stance = Stance(rotation=rotation, lean=0, tilt=0, openness=0, light=(0, 0))
        canvas, where = draw_bloom(flower, stance, x, y, 400.0, rng)
        assert len(where) == 3600
        assert habit.twist or np.abs(canvas.cover - canvas.cover[::-1]).mean() < 0.02
        petals = canvas.cover[np.abs(canvas.cover - 0.5) > 0.4] > 0.5  # the edges themselves are a ramp
        beginnings = int((petals & ~np.roll(petals, 1)).sum())
        assert beginnings == count * (2 if len(habit.whorls) > 1 else 1)


def test_rendered_images_are_kept_within_the_limit() -> None:
    bytes_each = 32 * 32 * 3
    kept, dropped = SyntheticFlowers(1, 3, 32, 0), SyntheticFlowers(1, 3, 32, 0, cache_bytes=bytes_each)
    for flowers in (kept, dropped):
        first = flowers.image(0, 0)
        assert not first.flags.writeable
        flowers.image(0, 1)
        again = flowers.image(0, 0)
        assert np.array_equal(first, again) and (again is first) == (flowers is kept)


def test_arguments_are_checked() -> None:
    for arguments, message in (
        ((0, 1, 32, 0), "number of flower classes 0, expected 1 to 1331"),
        ((1332, 1, 32, 0), "number of flower classes 1332, expected 1 to 1331"),
        ((1, 0, 32, 0), "images per class 0, expected at least 1"),
        ((1, 1, 50, 0), "image size 50, expected a multiple of 16 from 32 to 256"),
        ((1, 1, 32, -1), "seed -1, expected at least 0"),
    ):
        with pytest.raises(UserError, match=message):
            SyntheticFlowers(*arguments)
    flowers = SyntheticFlowers(2, 3, 32, 0)
    for c, i in ((-1, 0), (2, 0), (0, -1), (0, 3)):
        with pytest.raises(IndexError):
            flowers.image(c, i)
