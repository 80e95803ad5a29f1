"""Which of the known structures a folder of pairs has, and the files of its pairs.

A folder of one's own: images/ and labels/, PNG files of class indices named as the images are, and instances/ if there
are any; or train/ and test/ (or val/) that hold these. Published data sets as they unpack: Cityscapes, ADE20K,
COCO-Stuff.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pyeqgan.data.layouts.files import PairFiles
from pyeqgan.data.listing import class_folders, image_files
from pyeqgan.errors import UserError

HELD_OUT = 10
"""One in so many pairs, the last by name, is kept apart where the folder has no test/: frames of a film are alike."""

COCO_LABELS = ("stuffthingmaps", "stuffthingmaps_trainval2017", "annotations")
CITYSCAPES = (
    "unlabeled", "ego vehicle", "rectification border", "out of roi", "static", "dynamic", "ground", "road", "sidewalk",
    "parking", "rail track", "building", "wall", "fence", "guard rail", "bridge", "tunnel", "pole", "polegroup",
    "traffic light", "traffic sign", "vegetation", "terrain", "sky", "person", "rider", "car", "truck", "bus",
    "caravan", "trailer", "train", "motorcycle", "bicycle", "license plate",
)  # fmt: skip


@dataclass(frozen=True)
class Structure:
    """What a folder holds, and what is known of its labels before any is read."""

    train: Sequence[PairFiles]
    test: Sequence[PairFiles]
    kind: str | None = None
    """Of a published data set, its name; then the rest is known."""
    num_classes: int | None = None
    ignored: int = 255
    first: int = 0
    class_names: Sequence[str] | None = None


class Maps(NamedTuple):
    """The images in a folder, or, if `nested`, in the folders in it, whose names have an ending ("": any image's)."""

    folder: Path
    ending: str = ""
    nested: bool = False

    def listed(self) -> dict[str, str]:
        """Their paths by their names without the ending; of a folder that is not there none."""
        if not self.folder.is_dir():
            return {}
        folders = class_folders(self.folder) if self.nested else [self.folder]
        paths: dict[str, str] = {}
        for folder, names in zip(folders, image_files(self.folder, folders), strict=True):
            for name in names:
                if name.lower().endswith(self.ending.lower()):
                    stem = name[: -len(self.ending)] if self.ending else name.rpartition(".")[0]
                    path = f"{folder}/{name}"
                    if paths.setdefault(stem, path) != path:
                        raise UserError(f"{paths[stem]!r} and {path!r} have one name, expected one file of each name")
        return paths


def recognise(root: Path) -> Structure:
    """The structure of a folder.

    Raises:
        UserError: it is none of the known ones, or an image has no labels.
    """
    if not root.is_dir():
        raise UserError(f"no folder {str(root)!r}, expected one of images and label maps")
    for known in (_cityscapes, _ade20k, _coco_stuff, _parts, _whole):
        structure = known(root)
        if structure is not None:
            return structure
    raise UserError(
        f"no images and label maps in {str(root)!r}, expected images/ and labels/ (or train/ and test/ of these), "
        "Cityscapes (leftImg8bit/, gtFine/), ADE20K (images/training/, annotations/training/) or COCO-Stuff "
        "(train2017/, val2017/, stuffthingmaps/)"
    )


def _cityscapes(root: Path) -> Structure | None:
    if not (root / "leftImg8bit").is_dir():
        return None
    train, test = (
        _pairs(
            Maps(root / "leftImg8bit" / part, "_leftImg8bit.png", nested=True),
            Maps(root / "gtFine" / part, "_gtFine_labelIds.png", nested=True),
            Maps(root / "gtFine" / part, "_gtFine_instanceIds.png", nested=True),
        )
        for part in ("train", "val")
    )
    return Structure(train, test, "Cityscapes", len(CITYSCAPES), class_names=CITYSCAPES)


def _ade20k(root: Path) -> Structure | None:
    root = root / "ADEChallengeData2016" if (root / "ADEChallengeData2016").is_dir() else root
    if not (root / "images" / "training").is_dir():
        return None
    train, test = (
        _pairs(Maps(root / "images" / part), Maps(root / "annotations" / part, ".png"))
        for part in ("training", "validation")
    )
    return Structure(train, test, "ADE20K", 150, ignored=0, first=1)


def _coco_stuff(root: Path) -> Structure | None:
    images = _first(root, (".", "images"), "train2017")
    if images is None:
        return None
    labels = _first(root, COCO_LABELS, "train2017") or root / COCO_LABELS[0]
    train, test = (
        _pairs(Maps(images / part), Maps(labels / part, ".png"), Maps(root / things, ".png"))
        for part, things in (("train2017", "train_inst"), ("val2017", "val_inst"))
    )
    return Structure(train, test, "COCO-Stuff", 182)


def _parts(root: Path) -> Structure | None:
    """train/ and test/ (or val/) of images/ and labels/."""
    if not (root / "train" / "images").is_dir():
        return None
    test = _first(root, ("test", "val"), "images")
    if test is None:
        raise UserError(f"{str(root)!r} holds train/, expected beside it test/ or val/ of images/ and labels/")
    return Structure(_own(root / "train"), _own(test))


def _whole(root: Path) -> Structure | None:
    """images/ and labels/ alone."""
    if not (root / "images").is_dir():
        return None
    pairs = _own(root)
    if len(pairs) < 2:
        raise UserError(f"one image in {str(root / 'images')!r}, expected at least 2, one of them to evaluate on")
    kept = -(-len(pairs) // HELD_OUT)
    return Structure(pairs[:-kept], pairs[-kept:])


def _own(root: Path) -> list[PairFiles]:
    return _pairs(Maps(root / "images"), Maps(root / "labels", ".png"), Maps(root / "instances", ".png"))


def _first(root: Path, names: Sequence[str], holding: str) -> Path | None:
    """The first of some folders in `root` that holds another."""
    return next((root / name for name in names if (root / name / holding).is_dir()), None)


def _pairs(images: Maps, labels: Maps, instances: Maps | None = None) -> list[PairFiles]:
    """The pairs by name; labels without an image are left alone, and instances may all be missing, but not some."""
    pictures, classes, things = images.listed(), labels.listed(), instances.listed() if instances else {}
    if not pictures:
        raise UserError(f"no images in {str(images.folder)!r}, expected at least one")
    for what, known, maps in (("labels", classes, labels), ("instances", things or pictures, instances)):
        missing = sorted(pictures.keys() - known.keys())
        if missing and maps:
            names = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
            expected = f"a file NAME{maps.ending} for each in {str(maps.folder)!r}"
            raise UserError(f"images in {str(images.folder)!r} without {what}: {names}; expected {expected}")
    return [PairFiles(stem, path, classes[stem], things.get(stem)) for stem, path in sorted(pictures.items())]
