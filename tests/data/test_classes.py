from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pyeqgan.data import (
    ArchiveClasses,
    ClassSubset,
    FolderClasses,
    ImageClasses,
    SyntheticFlowers,
    open_data,
)
from pyeqgan.errors import UserError


def _folders(root: Path, names: str) -> Path:
    for index, name in enumerate(names):
        (root / name).mkdir()
        Image.new("RGB", (32, 32), (index, 0, 0)).save(root / name / "a.png")
    return root


def _archive(path: Path, classes: int) -> Path:
    np.save(path, np.zeros((classes, 2, 32, 32, 3), np.uint8))
    return path


def test_every_source_keeps_the_contract(tmp_path: Path) -> None:
    sources: list[ImageClasses] = [
        SyntheticFlowers(3, 2, 32, 0),
        FolderClasses(_folders(tmp_path, "abc"), 32),
        ArchiveClasses(_archive(tmp_path / "d.npy", 3), 32),
    ]
    sources += [ClassSubset(source, [2, 0]) for source in sources]
    for source in sources:
        assert len(source.class_names) == len(source) and source.image_size == 32
        for index in range(len(source)):
            image = source.image(index, source.count(index) - 1)
            assert image.shape == (32, 32, 3) and image.dtype == np.uint8


def test_a_subset_renumbers(tmp_path: Path) -> None:
    source = FolderClasses(_folders(tmp_path, "abcd"), 32)
    subset = ClassSubset(source, [3, 1])
    assert list(subset.class_names) == ["d", "b"] and len(subset) == 2
    assert subset.image(0, 0)[0, 0, 0] == 3 and subset.image(1, 0)[0, 0, 0] == 1
    with pytest.raises(IndexError):
        subset.image(2, 0)
    with pytest.raises(IndexError):
        ClassSubset(source, [4])
    with pytest.raises(ValueError, match="twice"):
        ClassSubset(source, [1, 1])


def test_the_embedded_split() -> None:
    split = open_data("embedded", image_size=32)
    assert len(split.seen) == 60 and len(split.unseen) == 20
    assert not set(split.seen.class_names) & set(split.unseen.class_names)
    again, other = open_data("embedded", image_size=32), open_data("embedded", image_size=32, seed=1)
    assert np.array_equal(split.unseen.image(3, 5), again.unseen.image(3, 5))
    assert not np.array_equal(split.unseen.image(3, 5), other.unseen.image(3, 5))


@pytest.mark.parametrize(("classes", "seen"), [(1, 1), (2, 1), (3, 2), (4, 3), (5, 3), (12, 9)])
def test_three_quarters_are_seen_by_default(tmp_path: Path, classes: int, seen: int) -> None:
    split = open_data(_folders(tmp_path, "abcdefghijkl"[:classes]), image_size=32)
    assert len(split.seen) == seen and len(split.unseen) == classes - seen


def test_the_first_by_name_are_seen(tmp_path: Path) -> None:
    split = open_data(str(_folders(tmp_path, "dBac")), image_size=32, seen_classes=1)
    assert list(split.seen.class_names) == ["B"] and list(split.unseen.class_names) == ["a", "c", "d"]
    assert split.unseen.image(0, 0)[0, 0, 0] == 2


def test_all_may_be_seen(tmp_path: Path) -> None:
    archive = _archive(tmp_path / "d.npy", 3).rename(tmp_path / "d.NPY")
    split = open_data(archive, image_size=32, seen_classes=3)
    assert len(split.seen) == 3 and len(split.unseen) == 0


@pytest.mark.parametrize("seen", [0, -1, 4])
def test_seen_classes_out_of_range(tmp_path: Path, seen: int) -> None:
    with pytest.raises(UserError, match=rf"seen classes {seen}, expected 1 to 3"):
        open_data(_archive(tmp_path / "d.npy", 3), image_size=32, seen_classes=seen)


def test_sources_that_are_none(tmp_path: Path) -> None:
    text = tmp_path / "a.txt"
    text.write_text("x")
    for source, message in (
        (text, r"is a file, expected a folder of class folders or a \.npy archive"),
        (tmp_path / "nowhere", "no folder"),
        (tmp_path / "nowhere.npy", "no file"),
        ("", "no class folders|without an image"),
    ):
        with pytest.raises(UserError, match=message):
            open_data(source, image_size=32)
    for source in ("embedded", tmp_path):
        with pytest.raises(UserError, match="image size 31"):
            open_data(source, image_size=31)
    with pytest.raises(UserError, match="seed -1"):
        open_data("embedded", image_size=32, seed=-1)


def test_a_folder_may_be_called_embedded_or_npy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("embedded", "data.npy"):
        (tmp_path / name).mkdir()
        _folders(tmp_path / name, "ab")
        assert list(open_data(f"./{name}", image_size=32).seen.class_names) == ["a"]
