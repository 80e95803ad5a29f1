"""Images that cannot be read, and what the samplers put in their place."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import runs
import torch
from PIL import Image

from pyeqgan.data import EpisodeSampler, FolderClasses, LayoutSampler, Unreadable, open_layouts, prefetch
from pyeqgan.errors import UserError

STEPS = 12


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes of five pictures: of class c, image i is of the one colour (40·i, 100·c, 0)."""
    for name, red, green in (("abcde"[i // 5], i % 5, i // 5) for i in range(10)):
        path = tmp_path / "photos" / name / f"{red}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (40 * red, 100 * green, 0)).save(path)
    return tmp_path / "photos"


def break_images(photos: Path, *names: str) -> None:
    for name in names:
        path = photos / name
        path.write_bytes(path.read_bytes()[:40])


def sampler(photos: Path, seed: int, unreadable: Unreadable | None, **options: object) -> EpisodeSampler:
    fields = {"batch_size": 4, "shots": 3, "flip": False, **options}
    return EpisodeSampler(FolderClasses(photos, 32), seed=seed, unreadable=unreadable, **fields)


def drawn(episode: object) -> list[list[tuple[int, int]]]:
    """Of each row, the images by class and index."""
    colours = ((episode.images[:, :, :2, 0, 0] + 1) * 127.5).round().long()
    return [[(int(green) // 100, int(red) // 40) for red, green in row] for row in colours]


def test_another_image_of_the_class_takes_its_place_and_no_other_place_changes(photos: Path, rng: np.random.Generator):
    seed = int(rng.integers(2**31))
    before = [drawn(sampler(photos, seed, None).episode(step)) for step in range(STEPS)]
    bad = [(0, int(rng.integers(5))), (1, 0), (1, 3)]
    break_images(photos, *(f"{'ab'[c]}/{i}.png" for c, i in bad))
    unreadable, found_bad = Unreadable(), 0
    now = sampler(photos, seed, unreadable)
    for step, rows in enumerate(before):
        for row, changed in zip(rows, drawn(now.episode(step)), strict=True):
            for was, is_ in zip(row, changed, strict=True):
                found_bad += was in bad
                assert is_ == was if was not in bad else is_ not in bad and is_[0] == was[0]
            readable = 5 - sum(c == row[0][0] for c, _ in bad)
            assert len(set(changed)) == min(3, readable), "none is seen twice, as there are enough"
    assert found_bad, "of 144 draws none was of the three"
    lines = unreadable.new()
    assert len(lines) == len(set(lines)) <= 3 and all(line.startswith("cannot read image '") for line in lines)
    assert unreadable.new() == []


def test_which_one_depends_on_seed_step_place_and_files_alone(photos: Path, rng: np.random.Generator):
    seed = int(rng.integers(2**31))
    break_images(photos, "a/1.png", "b/2.png", "b/4.png")
    expected = [sampler(photos, seed, Unreadable()).episode(step) for step in range(STEPS)]
    once = Unreadable()
    for step, episode in enumerate(prefetch(sampler(photos, seed, once), 0, STEPS, depth=4, workers=3)):
        assert torch.equal(episode.images, expected[step].images)
    halves = [sampler(photos, seed, Unreadable(), rows=rows) for rows in (slice(0, 2), slice(2, 4))]
    for step in (5, 3):  # as the processes of a resumed run
        parts = torch.cat([half.episode(step).images for half in halves])
        assert torch.equal(parts, expected[step].images)
    assert len(once.new()) <= 3


def test_a_class_without_an_image_that_can_be_read_is_named(photos: Path, rng: np.random.Generator):
    break_images(photos, *(f"b/{index}.png" for index in range(1, 5)))
    seed = int(rng.integers(2**31))
    for row in drawn(sampler(photos, seed, Unreadable()).episode(0)):
        assert row[0][0] == 0 or set(row) == {(1, 0)}, "the only one, again and again"
    break_images(photos, "b/0.png")
    with pytest.raises(
        UserError, match=r"^none of the 5 images of class 'b' can be read: cannot read image '.*b/\d.png'"
    ):
        sampler(photos, seed, Unreadable()).episode(0)


def test_strictly_the_first_ends_it(photos: Path):
    break_images(photos, *(f"a/{index}.png" for index in range(5)))
    for unreadable in (None, Unreadable(strict=True)):
        with pytest.raises(UserError, match=r"^cannot read image"):
            sampler(photos, 0, unreadable).episode(0)


def test_an_archive_with_numbers_that_are_no_colours(tmp_path: Path, rng: np.random.Generator):
    array = rng.random((2, 4, 32, 32, 3), dtype=np.float32)
    array[1, 2, 5, 5, 0] = np.nan
    np.save(tmp_path / "a.npy", array)
    from pyeqgan.data import ArchiveClasses

    unreadable = Unreadable()
    draws = EpisodeSampler(ArchiveClasses(tmp_path / "a.npy", 32), batch_size=2, shots=3, seed=1, unreadable=unreadable)
    assert all(draws.episode(step).images.isfinite().all() for step in range(8))
    (line,) = unreadable.new()
    assert "image 2 of class 1" in line


@pytest.fixture
def layouts(tmp_path: Path) -> Path:
    """Twelve pairs to train on, with classes 0 to 2."""
    return runs.write_layouts(tmp_path / "layouts", train=12, test=1)


@pytest.mark.parametrize("kind", ["images", "labels"])
def test_another_pair_takes_the_place_of_one_that_cannot_be_read(layouts: Path, rng: np.random.Generator, kind: str):
    pytest.importorskip("cv2")
    seed = int(rng.integers(2**31))

    def batches(unreadable: Unreadable | None, rows: slice = slice(None), count: int = 6) -> list[object]:
        split = open_layouts(layouts, image_size=(16, 16), num_classes=3)
        pairs = LayoutSampler(split.train, batch_size=4, seed=seed, zoom=2.0, rows=rows, unreadable=unreadable)
        return [pairs.batch(step) for step in range(count)]

    before = batches(None)
    files = sorted((layouts / "train" / kind).iterdir())
    broken = files[int(rng.integers(len(files)))]
    broken.write_bytes(b"no picture")
    unreadable = Unreadable()
    after = batches(unreadable)
    changed = sum(
        not torch.equal(a.images[row], b.images[row]) for a, b in zip(before, after, strict=True) for row in range(4)
    )
    assert changed == 2, "24 draws of 12 pairs: each is drawn twice"
    assert [str(broken) in line for line in unreadable.new()] == [True]
    again = [batches(Unreadable(), rows) for rows in (slice(0, 2), slice(2, 4))]
    for step, batch in enumerate(after):
        for field in dataclasses.fields(batch):
            if getattr(batch, field.name) is not None:
                parts = torch.cat([getattr(half[step], field.name) for half in again])
                assert torch.equal(parts, getattr(batch, field.name))
    with pytest.raises(UserError, match=r"^cannot read image"):
        batches(Unreadable(strict=True))
    for path in files:
        path.write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"^none of the 12 pairs can be read: cannot read image"):
        batches(Unreadable())


def test_a_label_that_means_nothing_is_still_an_error(layouts: Path):
    """The file can be read: what is wrong may be what was told of the classes."""
    pytest.importorskip("cv2")
    (layouts / "classes.txt").unlink()
    split = open_layouts(layouts, image_size=(16, 16), num_classes=2)
    pairs = LayoutSampler(split.train, batch_size=12, seed=0, unreadable=Unreadable())
    with pytest.raises(UserError, match=r"^label 2 in"):
        pairs.batch(0)
