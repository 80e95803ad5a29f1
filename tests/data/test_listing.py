import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from pyeqgan.data import listing
from pyeqgan.data.listing import class_folders, image_files

LONG_AGO = time.time_ns() - 10**12


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the cache; a listing of three files is worth keeping."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(listing, "WORTH", 3)
    return tmp_path / "cache" / "pyeqgan" / "listings"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two class folders, last changed some time ago."""
    for name in ("a/2.png", "a/1.JPG", "b/é\udcff.png"):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    age(tmp_path / "data")
    return tmp_path / "data"


def age(data: Path, when: int = LONG_AGO) -> None:
    for folder in data.iterdir():
        os.utime(folder, ns=(when, when))


def listed(data: Path) -> list[list[str]]:
    return image_files(data, class_folders(data))


@pytest.fixture
def scanned(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the class folders that were listed."""
    names: list[str] = []
    images = listing.images_in

    def note(folder: Path) -> list[str]:
        names.append(folder.name)
        return images(folder)

    monkeypatch.setattr(listing, "images_in", note)
    return names


EXPECTED = [["1.JPG", "2.png"], ["é\udcff.png"]]


def test_a_second_listing_looks_into_no_class_folder(data: Path, cache: Path, scanned: list[str]) -> None:
    before = sorted(data.rglob("*"))
    assert listed(data) == EXPECTED and scanned == ["a", "b"]
    scanned.clear()
    assert listed(data) == EXPECTED and scanned == []
    assert len(list(cache.iterdir())) == 1 and sorted(data.rglob("*")) == before


def test_a_changed_class_is_listed_anew_and_no_other(data: Path, cache: Path, scanned: list[str]) -> None:
    listed(data)
    (data / "a" / "3.png").write_bytes(b"")
    os.utime(data / "a", ns=(LONG_AGO + 1, LONG_AGO + 1))
    scanned.clear()
    assert listed(data) == [["1.JPG", "2.png", "3.png"], EXPECTED[1]] and scanned == ["a"]
    (data / "c").mkdir()
    (data / "c" / "x.bmp").write_bytes(b"")
    shutil.rmtree(data / "b")
    assert listed(data) == [["1.JPG", "2.png", "3.png"], ["x.bmp"]]


def test_a_folder_that_has_just_changed_is_not_kept(data: Path, cache: Path, scanned: list[str]) -> None:
    age(data, time.time_ns() + 10**12)  # as one changed within the tick of the clock that its listing saw
    listed(data)
    scanned.clear()
    assert listed(data) == EXPECTED and scanned == ["a", "b"]


def test_damage_is_noticed_wherever_it_is(data: Path, cache: Path, rng: np.random.Generator) -> None:
    listed(data)
    (file,) = cache.iterdir()
    whole = file.read_bytes()
    for _ in range(100):
        damaged = bytearray(whole)
        place = int(rng.integers(len(damaged)))
        damaged[place] ^= 1 << int(rng.integers(8))
        file.write_bytes(damaged if rng.random() < 0.5 else whole[:place])
        assert listed(data) == EXPECTED
    file.write_text(json.dumps({}))
    assert listed(data) == EXPECTED
    assert file.read_bytes() == whole


def test_a_small_data_set_leaves_no_cache(data: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "WORTH", 4)
    assert listed(data) == EXPECTED and not cache.exists()


def test_a_cache_that_cannot_be_written_is_done_without(data: Path, cache: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert listed(data) == EXPECTED
    (tmp_path / "cache").unlink()
    cache.mkdir(parents=True)
    subprocess.run(["chmod", "a-w", str(cache)], check=True)
    try:
        assert listed(data) == EXPECTED
    finally:
        subprocess.run(["chmod", "u+w", str(cache)], check=True)


def test_a_full_disk_leaves_no_half_of_a_cache(data: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert listed(data) == EXPECTED and list(cache.iterdir()) == []


def test_without_xdg_it_is_in_the_home(
    data: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for unset in ("", "relative/path"):  # the specification says to ignore a relative one
        monkeypatch.setenv("XDG_CACHE_HOME", unset)
        assert listed(data) == EXPECTED
    assert len(list((tmp_path / "home" / ".cache" / "pyeqgan" / "listings").iterdir())) == 1
