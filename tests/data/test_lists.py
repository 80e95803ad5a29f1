import sys
from pathlib import Path

import builds
import numpy as np
import pytest
from builds import make
from PIL import Image

from pyeqgan.data import BuiltClasses
from pyeqgan.data.building.lists import by_folder
from pyeqgan.data.building.split import ANIMALS_UNSEEN, seen_names
from pyeqgan.data.built import read_manifest
from pyeqgan.data.folders import read_image
from pyeqgan.errors import UserError


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        (["rose/1.png", "daisy/1.png", "daisy/2.png"], {"daisy": 2, "rose": 1}),
        (["p/q/rose/1.png", "p/q/daisy/1.png"], {"daisy": 1, "rose": 1}),
        (["s/Greek/a/1.png", "s/Greek/b/1.png", "s/Latin/a/1.png"], {"Greek/a": 1, "Greek/b": 1, "Latin/a": 1}),
        (["p/daisy/1.png", "p/daisy/near/1.png", "p/rose/1.png"], {"daisy": 1, "daisy/near": 1, "rose": 1}),
        (["p/daisy/1.png"], {"daisy": 1}),
        (["p/cover.png", "p/daisy/1.png"], {"daisy": 1}),
        (["cover.png", "daisy/1.png"], {"daisy": 1}),
        (["1.png"], {}),
        ([], {}),
    ],
)
def test_classes_are_folders_below_the_shared_one(names: list[str], classes: dict[str, int]) -> None:
    assert {label: len(found) for label, found in by_folder(names).items()} == classes


def test_images_in_no_class_folder_are_listed(tmp_path: Path, rng: np.random.Generator) -> None:
    photos = builds.write_photos(tmp_path / "photos", rng, {"a": 2, "b": 2})
    (photos / "a" / "0.png").rename(photos / "cover.png")
    told = make(photos, tmp_path / "built")
    assert told[0].startswith("left out: 1, 'cover.png' the first (in no class folder)")
    assert read_manifest(tmp_path / "built").left_out == [{"file": "cover.png", "why": "in no class folder"}]


@pytest.fixture
def flowers(tmp_path: Path, rng: np.random.Generator) -> Path:
    folder = builds.write_photos(tmp_path / "102flowers", rng, {"jpg": 12})
    for index in range(12):
        (folder / "jpg" / f"{index}.png").rename(folder / "jpg" / f"image_{index + 1:05d}.png")
    return folder


def test_flowers_have_their_labels_in_a_mat_file(flowers: Path, tmp_path: Path) -> None:
    savemat = pytest.importorskip("scipy.io", reason="scipy, which reads .mat files, is not installed").savemat
    labels = [77, 3, 3, 102, 77, 3, 1, 1, 1, 102, 77, 3]
    savemat(tmp_path / "imagelabels.mat", {"labels": np.array([labels], np.uint8)})
    archive = builds.pack(flowers, tmp_path / "102flowers.tgz")
    make(archive, tmp_path / "built", labels=tmp_path / "imagelabels.mat")
    classes = BuiltClasses(tmp_path / "built", 32)
    assert list(classes.class_names) == ["001", "003", "077", "102"]
    for c, label in enumerate((1, 3, 77, 102)):
        files = [number for number, known in enumerate(labels, 1) if known == label]
        assert classes.count(c) == len(files)
        for i, number in enumerate(files):
            expected = read_image(flowers / "jpg" / f"image_{number:05d}.png", 32)
            assert np.array_equal(classes.image(c, i), expected)
    savemat(tmp_path / "short.mat", {"labels": np.array([labels[:5]], np.uint8)})
    savemat(tmp_path / "other.mat", {"other": np.zeros(3)})
    for name, message in (("short.mat", "has no label"), ("other.mat", "cannot read labels"), ("none", "cannot read")):
        with pytest.raises(UserError, match=message):
            make(archive, tmp_path / "again", labels=tmp_path / name)


def test_without_scipy_the_extra_is_named(flowers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(UserError, match=r"pip install 'pyeqgan\[data\]'"):
        make(flowers, tmp_path / "built", labels=tmp_path / "imagelabels.mat")


def test_boxes_are_cropped_and_nothing_else_is_taken(tmp_path: Path, rng: np.random.Generator) -> None:
    train = builds.write_photos(tmp_path / "train", rng, {"n02085620": 3, "n02085782": 3, "n1": 2}, side=90)
    boxes = tmp_path / "coordinates.txt"
    lines = ["n02085620/0.png 5 8 55 58", "n02085620/0.png 0 0 40 70", "n02085782/2.png -9 10 200 60"]
    boxes.write_text("\n".join([*lines, "n02085782/missing.png 0 0 9 9", "", ""]))
    told = make(train, tmp_path / "built", boxes=boxes)
    assert told[0].startswith("left out: 1, 'n02085782/missing.png' the first (has a box, but is not in the source)")
    classes = BuiltClasses(tmp_path / "built", 32)
    assert list(classes.class_names) == ["n02085620", "n02085782"]
    assert [classes.count(0), classes.count(1)] == [2, 1]
    for c, i, box in ((0, 0, (5, 8, 55, 58)), (0, 1, (0, 0, 40, 70)), (1, 0, (0, 10, 98, 60))):
        part = Image.open(train / classes.class_names[c] / ("0.png" if c == 0 else "2.png")).crop(box)
        part.save(tmp_path / "part.png")
        assert np.array_equal(classes.image(c, i), read_image(tmp_path / "part.png", 32))


@pytest.mark.parametrize("line", ["a/0.png 1 2 3", "a/0.png 1 2 3 x", "a/0.png 1 2 nan 4", "a/0.png", "1 2 3 inf"])
def test_lines_that_are_no_boxes_are_told(tmp_path: Path, rng: np.random.Generator, line: str) -> None:
    photos = builds.write_photos(tmp_path / "photos", rng, {"a": 1, "b": 1})
    (tmp_path / "boxes").write_text(f"a/0.png 0 0 9 9\n{line}\n")
    with pytest.raises(UserError, match=r"line 2: expected FILE LEFT TOP RIGHT BOTTOM, got"):
        make(photos, tmp_path / "built", boxes=tmp_path / "boxes")


def test_boxes_of_other_data_or_outside_the_image_are_told(tmp_path: Path, rng: np.random.Generator) -> None:
    photos = builds.write_photos(tmp_path / "photos", rng, {"a": 1, "b": 1})
    for text, message in (
        ("c/0.png 0 0 9 9", "none of the 1 files of .* is in the source: 'c/0.png'"),
        ("a/0.png 500 0 600 9", r"cannot read image 'a/0\.png': nothing of it, 56×48, lies in the box 500 0 600 9"),
        ("a/0.png 9 9 3 3", "lies in the box 9 9 3 3"),
    ):
        (tmp_path / "boxes").write_text(text)
        with pytest.raises(UserError, match=message):
            make(photos, tmp_path / "built", boxes=tmp_path / "boxes", force=True)
    with pytest.raises(UserError, match="cannot read boxes"):
        make(photos, tmp_path / "built", boxes=tmp_path / "nowhere", force=True)


def test_the_papers_splits() -> None:
    for paper, count, seen in (("flowers", 102, 85), ("vggface", 2354, 1802)):
        names = [f"{number:04d}" for number in range(count)]
        assert seen_names(paper, names) == set(names[:seen])
        with pytest.raises(UserError, match=f"--seen-classes {paper} splits {count} classes, got {count - 1}"):
            seen_names(paper, names[1:])
    animals = sorted([*ANIMALS_UNSEEN, *(f"n0300{number:04d}" for number in range(119))])
    assert len(ANIMALS_UNSEEN) == 30
    assert seen_names("animals", animals) == set(animals) - ANIMALS_UNSEEN
    with pytest.raises(UserError, match="0 of FUNIT's 30 unseen classes are here"):
        seen_names("animals", [f"{number}" for number in range(149)])


@pytest.mark.parametrize(
    ("which", "message"),
    [
        ("0", "--seen-classes 0, expected 1 to 3"),
        ("-1", "--seen-classes -1, expected 1 to 3"),
        ("4", "--seen-classes 4, expected 1 to 3"),
        ("many", "--seen-classes 'many', expected a number, flowers, animals, vggface, or a file of names"),
    ],
)
def test_a_split_that_is_none_is_told(which: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        seen_names(which, ["a", "b", "c"])


def test_a_split_by_number_by_default_and_by_a_file(tmp_path: Path) -> None:
    names = list("abcde")
    assert seen_names("2", names) == {"a", "b"} and seen_names(None, names) == {"a", "b", "c"}
    assert seen_names(None, ["a"]) == {"a"}
    (tmp_path / "names").write_text("c\nx\n")
    with pytest.raises(UserError, match="names 1 classes that are not there, 'x' among them"):
        seen_names(str(tmp_path / "names"), names)
    (tmp_path / "names").write_text("\n")
    with pytest.raises(UserError, match="names no class"):
        seen_names(str(tmp_path / "names"), names)
