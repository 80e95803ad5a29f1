"""Which data get a table of published numbers, and what is in it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pyeqgan.data import Split
from pyeqgan.evaluation.published import TABLES, published


def data(stripes: Callable, seen: int = 85, unseen: int = 17, images: int = 40, image_size: int = 128) -> Split:
    return Split(stripes([images] * seen, image_size=image_size), stripes([images] * unseen, image_size=image_size))


def test_flowers_are_known_by_their_counts(stripes: Callable) -> None:
    found = published(data(stripes), shots=3)
    assert found is not None and found.data == "Flowers"
    lofgan = found.rows[0]
    assert (lofgan.method, lofgan.fid, lofgan.lpips, lofgan.confirmed) == ("LoFGAN", 79.33, 0.3862, ("LPIPS",))


@pytest.mark.parametrize("change", [{"seen": 84}, {"unseen": 18}, {"images": 41}, {"image_size": 64}, {"unseen": 0}])
def test_other_data_have_no_table(change: dict[str, int], stripes: Callable) -> None:
    assert published(data(stripes, **change), shots=3) is None


def test_other_shots_and_uneven_classes_have_no_table(stripes: Callable) -> None:
    assert published(data(stripes), shots=1) is None
    uneven = Split(data(stripes).seen, stripes([40] * 16 + [39], image_size=128))
    assert published(uneven, shots=3) is None


def test_no_number_is_confirmed_that_is_not_named_so() -> None:
    confirmed = {(t.data, r.method, name) for t in TABLES.values() for r in t.rows for name in r.confirmed}
    lofgan = {("Flowers", "LoFGAN", "LPIPS"), ("Animal Faces", "LoFGAN", "FID")}
    wavegan = {(t.data, "WaveGAN", name) for t in TABLES.values() for name in ("FID", "LPIPS")}
    assert confirmed == lofgan | wavegan
