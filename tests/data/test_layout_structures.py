import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from layout_folders import blocks, own, save, save_pair

from pyeqgan.data.layouts import EmbeddedLayouts, LayoutSplit, open_layouts
from pyeqgan.errors import UserError

SIZE = (20, 30)


def _names(split: LayoutSplit) -> tuple[list[str], list[str]]:
    train, test = ([part.name(index) for index in range(len(part))] for part in (split.train, split.test))
    return train, test


def _halves(root: Path) -> Path:
    own(root / "train", 4, suffix=".jpg")
    own(root / "test", 2, suffix=".JPEG")
    return root


def _cityscapes(root: Path, instances: bool = True) -> Path:
    for part, cities in (("train", ("ulm", "aachen")), ("val", ("lindau",))):
        for city in cities:
            for frame in range(2):
                stem = f"{city}_{frame:06d}_000019"
                maps = root / "gtFine" / part / city
                values = blocks([0, 7, 33, 255])
                save_pair(
                    root / "leftImg8bit" / part / city / f"{stem}_leftImg8bit.png",
                    maps / f"{stem}_gtFine_labelIds.png",
                    blocks([0, 1, 2, 3]),
                    values,
                )
                save(maps / f"{stem}_gtFine_color.png", values, "RGB")
                if instances:
                    save(maps / f"{stem}_gtFine_instanceIds.png", (blocks([0, 1]).astype(np.uint16) * 26_000))
    return root


def _ade20k(root: Path) -> Path:
    data = root / "ADEChallengeData2016"
    for part, name in (("training", "ADE_train_0000000"), ("validation", "ADE_val_0000000")):
        for index in range(1, 4):
            image = data / "images" / part / f"{name}{index}.jpg"
            labels = data / "annotations" / part / f"{name}{index}.png"
            save_pair(image, labels, blocks([0, 1, 2, 3]), blocks([0, 1, 75, 150]))
    return root


def _coco_stuff(root: Path, images: str = ".", labels: str = "stuffthingmaps", instances: bool = False) -> Path:
    for part, count in (("train2017", 3), ("val2017", 2)):
        for index in range(count):
            stem = f"{index:012d}"
            save_pair(
                root / images / part / f"{stem}.jpg",
                root / labels / part / f"{stem}.png",
                blocks([0, 1, 2, 3]),
                blocks([0, 91, 181, 255]),
            )
            if instances:
                save(root / f"{part.removesuffix('2017')}_inst" / f"{stem}.png", blocks([0, 1]))
    return root


def test_a_name_stands_for_the_embedded_layouts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(own(tmp_path / "embedded-layouts", 2).parent)
    split = open_layouts("embedded-layouts", image_size=SIZE)
    assert isinstance(split.train, EmbeddedLayouts) and split.train.coding.num_classes == 6
    assert _names(open_layouts("./embedded-layouts", image_size=SIZE)) == (["000"], ["001"])


@pytest.mark.parametrize(("count", "kept"), [(2, 1), (10, 1), (11, 2), (25, 3)])
def test_of_one_folder_the_last_tenth_is_kept_apart(tmp_path: Path, count: int, kept: int) -> None:
    train, test = _names(open_layouts(own(tmp_path, count), image_size=SIZE))
    assert train + test == [f"{index:03d}" for index in range(count)] and len(test) == kept


@pytest.mark.parametrize("test", ["test", "val"])
def test_a_folder_may_come_in_two_parts(tmp_path: Path, test: str) -> None:
    (_halves(tmp_path) / "test").rename(tmp_path / test)
    split = open_layouts(tmp_path, image_size=SIZE)
    assert [len(names) for names in _names(split)] == [4, 2]
    assert np.array_equal(split.test.pair(1)[1], blocks([1, 2, 0], 20, 30, 5))


def test_test_goes_before_val(tmp_path: Path) -> None:
    for part, count in (("train", 2), ("val", 3), ("test", 4)):
        own(tmp_path / part, count)
    assert len(open_layouts(tmp_path, image_size=SIZE).test) == 4


@pytest.mark.parametrize("instances", [True, False])
def test_cityscapes(tmp_path: Path, instances: bool) -> None:
    split = open_layouts(_cityscapes(tmp_path, instances), image_size=SIZE)
    train, test = _names(split)
    assert train == [f"{city}_00000{frame}_000019" for city in ("aachen", "ulm") for frame in (0, 1)]
    assert test == ["lindau_000000_000019", "lindau_000001_000019"]
    assert split.train.num_classes == 35 and len(split.train.class_names) == 35
    assert [split.train.class_names[index] for index in (7, 26, 33)] == ["road", "car", "bicycle"]
    assert np.unique(split.test.pair(0)[1]).tolist() == [-1, 0, 7, 33]
    assert split.train.has_instances == instances
    if instances:
        assert np.unique(split.train.instances(3)).tolist() == [0, 26_000]


@pytest.mark.parametrize("inner", ["", "ADEChallengeData2016"])
def test_ade20k(tmp_path: Path, inner: str) -> None:
    split = open_layouts(_ade20k(tmp_path) / inner, image_size=SIZE)
    assert [len(names) for names in _names(split)] == [3, 3] and split.train.num_classes == 150
    assert _names(split)[1][0] == "ADE_val_00000001"
    assert np.unique(split.train.pair(0)[1]).tolist() == [-1, 0, 74, 149]
    assert split.train.class_names[:2] == ("0", "1") and not split.train.has_instances


@pytest.mark.parametrize("images", [".", "images"])
@pytest.mark.parametrize("labels", ["stuffthingmaps", "stuffthingmaps_trainval2017", "annotations"])
@pytest.mark.parametrize("instances", [True, False])
def test_coco_stuff(tmp_path: Path, images: str, labels: str, instances: bool) -> None:
    split = open_layouts(_coco_stuff(tmp_path, images, labels, instances), image_size=SIZE)
    assert [len(names) for names in _names(split)] == [3, 2] and split.train.num_classes == 182
    assert np.unique(split.test.pair(1)[1]).tolist() == [-1, 0, 91, 181]
    assert split.train.has_instances == split.test.has_instances == instances
    if instances:
        assert np.unique(split.test.instances(0)).tolist() == [0, 1]


def test_classes_txt_names_the_classes(tmp_path: Path) -> None:
    own(tmp_path)
    (tmp_path / "classes.txt").write_text("Himmel\nWasser, tief\n  Bäume \n\n", encoding="utf-8")
    split = open_layouts(tmp_path, image_size=SIZE)
    assert split.train.class_names == split.test.class_names == ("Himmel", "Wasser, tief", "Bäume")
    with pytest.raises(UserError, match=r"classes\.txt in .* names 3 classes, expected 4"):
        open_layouts(tmp_path, image_size=SIZE, num_classes=4)


@pytest.mark.parametrize("content", [b"", b"\n\n", b"a\n\nb\n", b"a\nb\na\n", b"a\n\xff\n"])
def test_a_wrong_classes_txt_is_refused(tmp_path: Path, content: bytes) -> None:
    own(tmp_path)
    (tmp_path / "classes.txt").write_bytes(content)
    with pytest.raises(UserError, match=r"classes\.txt'.* expected .* a line"):
        open_layouts(tmp_path, image_size=SIZE)


def test_classes_are_counted_in_all_labels(tmp_path: Path) -> None:
    own(tmp_path / "train", 3)
    own(tmp_path / "test", 2, classes=(0, 6, 255))
    told = []
    split = open_layouts(tmp_path, image_size=SIZE, progress=lambda *line: told.append(line))
    assert split.train.num_classes == 7 and split.train.class_names == tuple("0123456")
    assert told == [("reading labels", done, 5) for done in range(1, 6)]
    told.clear()
    given = open_layouts(tmp_path, image_size=SIZE, num_classes=9, progress=lambda *line: told.append(line))
    assert given.test.num_classes == 9 and told == []
    assert open_layouts(tmp_path, image_size=SIZE, ignore_index=6).train.num_classes == 256


def test_the_ignored_value_may_be_the_last_class(tmp_path: Path) -> None:
    """As CamVid's void, 11."""
    split = open_layouts(own(tmp_path, classes=(0, 10, 11)), image_size=SIZE, ignore_index=11)
    assert split.train.num_classes == 11 and np.unique(split.train.pair(0)[1]).tolist() == [-1, 0, 10]


def test_labels_without_an_image_are_left_alone(tmp_path: Path) -> None:
    own(tmp_path)
    save(tmp_path / "labels" / "more.png", np.zeros((5, 5), np.uint8), "RGB")
    (tmp_path / "labels" / "notes.txt").write_text("x")
    assert len(open_layouts(tmp_path, image_size=SIZE).train) == 2


def _without(path: str) -> Callable[[Path], object]:
    def remove(root: Path) -> None:
        for file in sorted(root.glob(path)):
            os.rename(file, root / f"{file.stem}.gone")

    return remove


@pytest.mark.parametrize(
    ("build", "damage", "message"),
    [
        (own, _without("labels/001.png"), r"'.*/images' without labels: 001; expected a file NAME\.png for each"),
        (own, _without("labels"), r"without labels: 000, 001, 002; .* in '.*/labels'"),
        (own, lambda root: save(root / "images/001.bmp", blocks([0])), r"001\.bmp' and '.*001\.png' have one name"),
        (own, _without("images/*"), r"no images in '.*/images', expected at least one"),
        (own, lambda root: save(root / "instances/001.png", blocks([0])), "without instances: 000, 002; expected"),
        (lambda root: own(root, 1), None, "one image in .*, expected at least 2"),
        (_halves, _without("test"), r"holds train/, expected beside it test/ or val/"),
        (_halves, _without("test/labels"), "test/images' without labels: 000, 001; expected"),
        (_cityscapes, _without("gtFine"), "leftImg8bit/train' without labels: aachen_000000_.* and 1 more; expected"),
        (_cityscapes, _without("gtFine/train/ulm/*01_*_labelIds.png"), "without labels: ulm_000001_000019; expected"),
        (_cityscapes, _without("gtFine/train/ulm/*01_*_instanceIds.png"), "without instances: ulm_000001_000019"),
        (_cityscapes, _without("leftImg8bit/val"), "no images in '.*/leftImg8bit/val'"),
        (_ade20k, _without("*/annotations"), "images/training' without labels: .*; expected a file"),
        (_ade20k, _without("*/images/validation"), "no images in '.*images/validation'"),
        (_coco_stuff, _without("stuffthingmaps"), r"train2017' without labels: .* in '.*stuffthingmaps/train2017'"),
        (_coco_stuff, _without("val2017"), "no images in '.*val2017'"),
        (lambda root: root, None, r"no images and label maps in .*, expected images/ and labels/ .*Cityscapes.*COCO"),
        (lambda root: root / "gone", None, "no folder '.*gone', expected one of images and label maps"),
    ],
)  # fmt: skip
def test_what_is_missing_is_named(
    tmp_path: Path, build: Callable[[Path], Path], damage: Callable[[Path], object] | None, message: str
) -> None:
    root = build(tmp_path)
    if damage is not None:
        damage(root)
    with pytest.raises(UserError, match=message) as raised:
        open_layouts(root, image_size=SIZE)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 0}, "number of classes 0, expected 1 to 32767"),
        ({"num_classes": 40_000}, "number of classes 40000, expected 1 to 32767"),
        ({"ignore_index": -1}, "ignore index -1, expected 0 to 65535"),
        ({"image_size": (20, 8)}, "image width 8, expected 16 to 4096"),
    ],
)
def test_bad_arguments_are_named(tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        open_layouts(own(tmp_path), **{"image_size": SIZE, **options})


def test_labels_that_cannot_be_counted_are_refused(tmp_path: Path) -> None:
    own(tmp_path, classes=(255,))
    with pytest.raises(UserError, match="no pixel of any image has a class, expected labels from 0"):
        open_layouts(tmp_path, image_size=SIZE)
    save(tmp_path / "labels" / "001.png", np.full((40, 60), 33_000, np.uint16))
    with pytest.raises(UserError, match="the largest label is 33000, expected labels from 0 to at most 32766"):
        open_layouts(tmp_path, image_size=SIZE)


@pytest.mark.parametrize("option", ["num_classes", "ignore_index"])
def test_what_is_known_is_not_to_be_given(tmp_path: Path, option: str) -> None:
    for source, kind in (("embedded-layouts", "the embedded layouts"), (_ade20k(tmp_path), "ADE20K")):
        with pytest.raises(UserError, match=rf"{option.replace('_', ' ')} 3 was given, but that of {kind} is known"):
            open_layouts(source, image_size=SIZE, **{option: 3})


def test_a_large_folder_is_listed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second time the cache has it: not one folder of pairs is listed again, whatever their structure."""
    from pyeqgan.data import listing

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(listing, "WORTH", 1)
    root = _coco_stuff(tmp_path / "data")
    for folder in root.rglob("*/"):
        os.utime(folder, (1e9, 1e9))
    images, listed = listing.images_in, []
    monkeypatch.setattr(listing, "images_in", lambda folder: listed.append(folder) or images(folder))
    first = _names(open_layouts(root, image_size=SIZE))
    assert len(listed) == 4
    assert _names(open_layouts(root, image_size=SIZE)) == first and len(listed) == 4
