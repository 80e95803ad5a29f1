import pickle
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from pyeqgan.data import ArchiveClasses
from pyeqgan.errors import UserError


def _save(path: Path, array: np.ndarray, name: str = "data.npy") -> Path:
    np.save(path / name, array)
    return path / name


def _pixels(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("order", ["C", "F"])
def test_bytes_come_back_as_they_are(tmp_path: Path, rng: np.random.Generator, order: Literal["C", "F"]) -> None:
    data = np.asarray(_pixels(rng, 3, 4, 32, 32, 3), order=order)
    classes = ArchiveClasses(_save(tmp_path, data), 32)
    assert len(classes) == 3 and list(classes.class_names) == ["class_0000", "class_0001", "class_0002"]
    for c in range(3):
        assert classes.count(c) == 4
        for i in range(4):
            image = classes.image(c, i)
            assert image.dtype == np.uint8 and image.flags.c_contiguous and np.array_equal(image, data[c, i])


@pytest.mark.parametrize("dtype", ["<f2", "<f4", ">f4", "<f8", ">f8"])
def test_floats_from_0_to_1(tmp_path: Path, rng: np.random.Generator, dtype: str) -> None:
    data = _pixels(rng, 2, 2, 32, 32, 3)
    classes = ArchiveClasses(_save(tmp_path, (data / 255).astype(dtype)), 32)
    assert np.array_equal(classes.image(1, 1), data[1, 1])


@pytest.mark.parametrize("value", [255.0, -0.1, 1.01, np.nan, np.inf, -np.inf])
def test_floats_elsewhere_are_refused_when_read(tmp_path: Path, value: float) -> None:
    data = np.zeros((2, 2, 32, 32, 3), np.float32)
    data[1, 0, 3, 4, 1] = value
    classes = ArchiveClasses(_save(tmp_path, data), 32)
    assert not classes.image(0, 0).any()
    with pytest.raises(UserError, match=r"image 0 of class 1 in .*, expected floats from 0 to 1"):
        classes.image(1, 0)


def test_other_sizes_are_resized(tmp_path: Path, rng: np.random.Generator) -> None:
    coarse = _pixels(rng, 2, 2, 32, 32, 3)
    large = coarse.repeat(2, 2).repeat(2, 3)
    classes = ArchiveClasses(_save(tmp_path, large), 32)
    image = classes.image(0, 1)
    assert image.shape == (32, 32, 3) and classes.image(0, 1) is image
    # Lanczos is no box filter, but over the whole image it keeps the mean.
    assert np.abs(image.mean((0, 1)) - coarse[0, 1].mean((0, 1))).max() < 3
    assert ArchiveClasses(_save(tmp_path, coarse, "small.npy"), 64).image(0, 0).shape == (64, 64, 3)


@pytest.mark.parametrize(
    "shape",
    [(5,), (2, 32, 32, 3), (2, 2, 32, 48, 3), (2, 2, 3, 32, 32), (2, 2, 32, 32, 4), (2, 2, 2, 32, 32, 3),
     (0, 2, 32, 32, 3), (2, 0, 32, 32, 3), (2, 2, 0, 0, 3)],
)  # fmt: skip
def test_other_shapes_are_named(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match=r"expected \(classes, images, H, H, 3\)") as raised:
        ArchiveClasses(_save(tmp_path, np.zeros(shape, np.uint8)), 32)
    assert str(shape) in str(raised.value)


@pytest.mark.parametrize("dtype", ["int64", "int8", "uint16", "bool", "complex64", "S3", "datetime64[s]"])
def test_other_dtypes_are_named(tmp_path: Path, dtype: str) -> None:
    with pytest.raises(UserError, match=r"expected uint8 \(0 to 255\) or float \(0 to 1\)"):
        ArchiveClasses(_save(tmp_path, np.zeros((1, 1, 32, 32, 3), dtype)), 32)


class _Trap:
    sprung = False

    def __reduce__(self) -> tuple[object, ...]:
        return setattr, (_Trap, "sprung", True)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    trapped = np.empty((1, 1, 32, 32, 3), object)
    trapped[...] = _Trap()
    pickled = tmp_path / "pickle.npy"
    pickled.write_bytes(pickle.dumps(_Trap()))
    np.save(tmp_path / "data.npy", trapped, allow_pickle=True)
    for path in (tmp_path / "data.npy", pickled):
        with pytest.raises(UserError, match=r"cannot read .* as a \.npy array"):
            ArchiveClasses(path, 32)
    assert not _Trap.sprung


@pytest.mark.parametrize("damage", ["empty", "text", "header", "body"])
def test_damaged_files_are_named(tmp_path: Path, damage: str) -> None:
    path = _save(tmp_path, np.zeros((1, 1, 32, 32, 3), np.uint8))
    whole = path.read_bytes()
    path.write_bytes({"empty": b"", "text": b"no array", "header": whole[:20], "body": whole[:-1]}[damage])
    with pytest.raises(UserError, match=r"cannot read '.*data\.npy' as a \.npy array: .+") as raised:
        ArchiveClasses(path, 32)
    assert "\n" not in str(raised.value)


def _complaint(path: Path) -> str:
    """What is said of an archive, "" if it can be read; anything but a UserError fails the test."""
    try:
        image = ArchiveClasses(path, 32).image(0, 0)
    except UserError as error:
        return str(error)
    assert image.shape == (32, 32, 3)
    return ""


def test_random_damage_never_escapes(tmp_path: Path, rng: np.random.Generator) -> None:
    path = _save(tmp_path, _pixels(rng, 1, 2, 16, 16, 3))
    whole = np.frombuffer(path.read_bytes(), np.uint8)
    for _ in range(300):
        damaged = whole.copy()
        damaged[rng.integers(0, 130, 4)] = rng.integers(0, 256, 4)
        path.write_bytes(damaged.tobytes())
        assert "\n" not in _complaint(path)


def test_a_collection_is_no_array(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", a=np.zeros(3))
    (tmp_path / "data.npz").rename(tmp_path / "data.npy")
    with pytest.raises(UserError, match=r"\.npz collection"):
        ArchiveClasses(tmp_path / "data.npy", 32)


def test_missing_file_and_size(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no file"):
        ArchiveClasses(tmp_path / "nowhere.npy", 32)
    with pytest.raises(UserError, match="image size 40"):
        ArchiveClasses(tmp_path / "nowhere.npy", 40)


def test_indices_never_wrap(tmp_path: Path) -> None:
    classes = ArchiveClasses(_save(tmp_path, np.zeros((2, 3, 32, 32, 3), np.uint8)), 32)
    for c, i in ((-1, 0), (2, 0), (0, -1), (0, 3)):
        with pytest.raises(IndexError):
            classes.image(c, i)


def test_names_sort_as_numbers_however_many(tmp_path: Path) -> None:
    names = ArchiveClasses(_save(tmp_path, np.zeros((10_001, 1, 1, 1, 3), np.uint8)), 32).class_names
    assert names[0] == "class_00000" and sorted(names) == list(names)
