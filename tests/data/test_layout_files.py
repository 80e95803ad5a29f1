from pathlib import Path

import numpy as np
import pytest
from layout_folders import GREY, blocks, own, save, save_pair
from PIL import Image

from pyeqgan.data.layouts import Coding, LayoutFiles, LayoutSampler, View, open_layouts, read_labels
from pyeqgan.data.layouts.files import PairFiles, read_image
from pyeqgan.errors import UserError

THREE = Coding(3, ignored=255)


def _files(root: Path, coding: Coding = THREE, size: tuple[int, int] = (40, 60), **options: int) -> LayoutFiles:
    names = sorted(path.stem for path in (root / "images").iterdir())
    pairs = [
        PairFiles(name, str(next((root / "images").glob(f"{name}.*"))), str(root / "labels" / f"{name}.png"))
        for name in names
    ]
    return LayoutFiles(pairs, coding, tuple("abc"), size, **options)


def _told(image: np.ndarray) -> np.ndarray:
    """The class that each pixel's grey tells."""
    return np.rint(image[..., 0] / GREY).astype(np.int64)


def test_a_pair_is_what_was_written(tmp_path: Path) -> None:
    files = _files(own(tmp_path))
    assert len(files) == 3 and files.name(1) == "001" and files.num_classes == 3 and not files.has_instances
    for index in range(3):
        image, labels = files.pair(index)
        assert image.shape == (40, 60, 3) and image.dtype == np.uint8 and labels.dtype == np.int64
        assert np.array_equal(labels, blocks([index, (index + 1) % 3, (index + 2) % 3]))
        assert np.array_equal(image, np.repeat(labels[..., None] * GREY, 3, -1))
    with pytest.raises(IndexError):
        files.pair(3)
    with pytest.raises(ValueError, match="no instances are known of '000'"):
        files.instances(0)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize("size", [(20, 30), (16, 16), (80, 120), (40, 20), (25, 64)])
def test_image_and_labels_are_resized_alike(tmp_path: Path, size: tuple[int, int], suffix: str) -> None:
    """Away from the outlines, at any size and seen anyhow, the grey tells the label."""
    classes = np.kron(blocks([0, 1, 2]), np.ones((6, 6), np.uint8))
    save_pair(tmp_path / "images" / f"a{suffix}", tmp_path / "labels" / "a.png", classes)
    files = _files(tmp_path, size=size)
    for view in (View(), View(1.7, 0.0, 1.0), View(3.0, 0.9, 0.2)):
        image, labels = files.pair(0, view)
        assert image.shape == (*size, 3) and labels.shape == size
        assert (_told(image) == labels).mean() > 0.9
        inner = np.ones(size, bool)
        for axis in (0, 1):
            for shift in (-2, -1, 1, 2):
                inner &= np.roll(labels, shift, axis) == labels
        inner[:2] = inner[-2:] = inner[:, :2] = inner[:, -2:] = False
        assert np.array_equal(_told(image)[inner], labels[inner])


def test_a_picture_of_other_proportions_is_cut_in_the_middle(tmp_path: Path) -> None:
    classes = np.zeros((40, 100), np.uint8)
    classes[:, 30:70] = 1
    save_pair(tmp_path / "images" / "a.png", tmp_path / "labels" / "a.png", classes)
    files = _files(tmp_path, size=(20, 20))
    assert (files.pair(0)[1] == 1).all()
    left, right = (files.pair(0, View(1.0, x))[1] for x in (0.0, 1.0))
    assert left[:, :15].max() == 0 and left[:, 15:].min() == 1 and np.array_equal(left, right[:, ::-1])
    near = files.pair(0, View(2.0, 0.0, 0.0))
    assert near[1].max() == 0 and near[0].max() == 0


def test_zoomed_pairs_stay_pairs(tmp_path: Path) -> None:
    sampler = LayoutSampler(_files(own(tmp_path), size=(32, 32)), batch_size=3, seed=0, zoom=2.0)
    for step in range(10):
        batch = sampler.batch(step)
        told = ((batch.images[:, 0] + 1) * (127.5 / GREY)).round().long()
        assert (told == batch.labels).float().mean() > 0.85


def test_orientation_is_honoured(tmp_path: Path) -> None:
    classes = blocks([0, 1, 2])
    save(tmp_path / "labels" / "a.png", classes)
    exif = Image.Exif()
    exif[0x0112] = 6  # stored on its side
    stored = Image.fromarray((classes * GREY).astype(np.uint8)).transpose(Image.Transpose.ROTATE_90)
    (tmp_path / "images").mkdir()
    stored.save(tmp_path / "images" / "a.jpg", exif=exif, quality=95)
    image, labels = _files(tmp_path).pair(0)
    assert np.array_equal(labels, classes) and (_told(image) == labels).mean() > 0.95


@pytest.mark.parametrize("form", ["greyscale", "palette", "16 bits", "1 bit", "2 bits", "4 bits"])
def test_any_png_of_one_channel_holds_labels(tmp_path: Path, form: str) -> None:
    classes = blocks([0, 1] if form == "1 bit" else [0, 1, 2])
    image = Image.fromarray(classes)
    if form == "palette":
        image.putpalette([9, 8, 7] * 256)
    elif form == "16 bits":
        image = Image.fromarray(classes.astype(np.uint16))
    elif form == "1 bit":
        image = Image.fromarray(classes.astype(bool))
    path = tmp_path / "a.png"
    image.save(path)
    if form in ("2 bits", "4 bits"):
        _write_grey(path, classes, int(form[0]))
    assert np.array_equal(read_labels(str(path), THREE, (40, 60)), classes)


def _write_grey(path: Path, values: np.ndarray, bits: int) -> None:
    """A greyscale PNG of so many bits a pixel, which Pillow reads but does not write."""
    import struct
    import zlib

    shifts = np.arange(8 - bits, -1, -bits)
    packed = (values.reshape(len(values), -1, len(shifts)) << shifts).sum(-1).astype(np.uint8)
    rows = np.concatenate([np.zeros((len(values), 1), np.uint8), packed], 1).tobytes()
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], bits, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    data = b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + data)


def test_values_become_labels_by_their_coding(tmp_path: Path) -> None:
    path = str(save(tmp_path / "a.png", blocks([0, 1, 2, 255])))
    for coding, expected in (
        (Coding(3, ignored=255), [0, 1, 2, -1]),
        (Coding(255, ignored=0, first=1), [-1, 0, 1, 254]),
        (Coding(256, ignored=1), [0, -1, 2, 255]),
    ):
        labels = read_labels(path, coding, (40, 60))
        assert np.array_equal(labels, np.array(expected)[blocks([0, 1, 2, 3])])


def test_a_label_out_of_range_is_named_wherever_it_is(tmp_path: Path) -> None:
    classes = blocks([0, 1, 2])
    classes[39, 59] = 3
    path = str(save(tmp_path / "a.png", classes))
    with pytest.raises(UserError, match=rf"label 3 in '{path}' at row 39, column 59: expected 0 to 2, or 255 where"):
        read_labels(path, THREE, (16, 16))
    with pytest.raises(UserError, match=r"label 0 in .* at row 0, column 0: expected 1 to 3, or 255 where"):
        read_labels(path, Coding(3, ignored=255, first=1), (16, 16))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_labels_in_colour_are_refused_with_advice(tmp_path: Path, mode: str) -> None:
    own(tmp_path)
    path = save(tmp_path / "labels" / "001.png", blocks([0, 1, 2]), mode)
    files = _files(tmp_path)
    files.pair(0)
    with pytest.raises(
        UserError, match=rf"labels '{path}' are in colour \(mode {mode}\), expected a PNG of one channel"
    ):
        files.pair(1)


def test_labels_of_another_size_are_refused(tmp_path: Path) -> None:
    own(tmp_path)
    path = save(tmp_path / "labels" / "001.png", blocks([0, 1, 2], 40, 50))
    with pytest.raises(UserError, match=rf"'{path}' is 50×40, expected 60×40, the size of '.*001\.png'"):
        _files(tmp_path).pair(1)


def test_only_png_holds_labels(tmp_path: Path) -> None:
    own(tmp_path)
    Image.fromarray(blocks([0, 1, 2])).save(tmp_path / "labels" / "001.png", format="JPEG")
    with pytest.raises(UserError, match=r"labels '.*labels/001\.png' are JPEG, expected PNG"):
        _files(tmp_path).pair(1)


def _complaint(files: LayoutFiles) -> str | None:
    """What is said of the first pair, None if it can be read; anything but a UserError fails the test."""
    try:
        image, labels = files.pair(0)
    except UserError as error:
        return str(error)
    assert image.shape == (40, 60, 3) and labels.shape == (40, 60) and set(np.unique(labels)) <= {-1, 0, 1, 2}
    return None


def test_random_damage_never_escapes(tmp_path: Path, rng: np.random.Generator) -> None:
    own(tmp_path, suffix=".jpg")
    files = _files(tmp_path, cache_bytes=0)
    for path in (tmp_path / "images" / "000.jpg", tmp_path / "labels" / "000.png"):
        whole = path.read_bytes()
        for _ in range(150):
            damaged = bytearray(whole)
            for place in rng.integers(len(damaged), size=3):
                damaged[place] = int(rng.integers(256))
            path.write_bytes(damaged if rng.random() < 0.7 else whole[: int(rng.integers(len(whole)))])
            complaint = _complaint(files)
            assert complaint is None or ("000." in complaint and "\n" not in complaint)
        path.write_bytes(whole)


def test_pairs_are_kept_within_the_limit(tmp_path: Path) -> None:
    own(tmp_path)
    pair_bytes = 40 * 60 * (3 + 2)
    kept, dropped = _files(tmp_path), _files(tmp_path, cache_bytes=pair_bytes)
    for files in (kept, dropped):
        first = files.pair(0)
        assert not first[0].flags.writeable
        first[1][:] = 7  # its own
        for index in (1, 2):
            files.pair(index)
            files.pair(index, View(2.0))
        assert files._cache.nbytes == (3 if files is kept else 1) * pair_bytes
        again = files.pair(0)
        assert (again[0] is first[0]) == (files is kept) and np.array_equal(again[0], first[0])
        assert again[1].max() == 2


def test_instances_are_read_as_numbers_of_any_size(tmp_path: Path) -> None:
    own(tmp_path)
    things = np.zeros((40, 60), np.uint16)
    things[:20] = 26_001
    for index in range(3):
        save(tmp_path / "instances" / f"{index:03d}.png", things)
    train = open_layouts(tmp_path, image_size=(20, 30), num_classes=3).train
    assert train.has_instances and train.instances(0).dtype == np.int32
    assert train.instances(0)[:10].min() == 26_001 and train.instances(0)[10:].max() == 0
    assert train.instances(0, View(2.0, 0.5, 0.0)).min() == 26_001
    edges = LayoutSampler(train, batch_size=2, seed=0, with_instances=True).batch(0).instance_edges
    assert edges is not None and edges.nonzero()[:, 2].unique().tolist() == [9, 10]
    save(tmp_path / "instances" / "000.png", things[:, :50])
    with pytest.raises(UserError, match=r"instances/000\.png' is 50×40, expected 60×40"):
        open_layouts(tmp_path, image_size=(20, 30), num_classes=3).train.instances(0)


def test_a_large_jpeg_is_read_at_a_fraction_of_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.jpg", np.zeros((800, 1600), np.uint8), "RGB")
    decoded = []
    resize = Image.Image.resize

    def note(image: Image.Image, *args: object, **options: object) -> Image.Image:
        decoded.append(image.size)
        return resize(image, *args, **options)

    monkeypatch.setattr(Image.Image, "resize", note)
    read_image(str(path), (50, 100))
    read_image(str(path), (50, 100), View(4.0))
    read_image(str(path), (500, 1000))
    assert decoded == [(200, 100), (800, 400), (1600, 800)]
