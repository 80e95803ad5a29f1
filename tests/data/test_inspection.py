import io
import json
import shutil
from pathlib import Path

import builds
import numpy as np
import pytest
from PIL import Image, ImageEnhance

from pyeqgan import cli
from pyeqgan.data import SyntheticFlowers
from pyeqgan.data.inspection.duplicates import BITS, NEAR, first_matches, perceptual_bits
from pyeqgan.errors import UserError
from pyeqgan.options.data_inspect import DataInspectOptions


@pytest.fixture
def flowers(tmp_path: Path) -> Path:
    """Four classes of five pictures, seen: a, b, c; unseen: d."""
    source = SyntheticFlowers(4, 5, 96, 0)
    for c, name in enumerate("abcd"):
        (tmp_path / "flowers" / name).mkdir(parents=True)
        for i in range(5):
            Image.fromarray(source.image(c, i)).save(tmp_path / "flowers" / name / f"{i}.png")
    return tmp_path / "flowers"


def _inspect(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, list[str]]:
    status = cli.main(["data", "inspect", *map(str, arguments)])
    told = capsys.readouterr()
    assert told.err == ""
    return status, told.out.splitlines()


def _jpeg(image: Image.Image, quality: int) -> Image.Image:
    data = io.BytesIO()
    image.save(data, "JPEG", quality=quality)
    return Image.open(data)


def test_the_hash_survives_what_the_eye_does_and_tells_flowers_apart() -> None:
    source = SyntheticFlowers(10, 6, 96, 0)
    images = [source.image(c, i) for c in range(10) for i in range(6)]
    bits = np.array([perceptual_bits(image) for image in images])
    assert bits.shape == (60, BITS)
    assert (first_matches(bits, NEAR) == -1).all()
    for changed in (
        lambda image: _jpeg(image, 60),
        lambda image: image.resize((48, 48), Image.Resampling.LANCZOS),
        lambda image: ImageEnhance.Brightness(image).enhance(1.1),
        lambda image: image.convert("L"),
    ):
        others = [perceptual_bits(np.asarray(changed(Image.fromarray(i)).convert("RGB"))) for i in images]
        near = np.count_nonzero(bits != np.array(others), axis=1) <= NEAR
        assert near.mean() > 0.9


def test_the_options_know_the_hash() -> None:
    assert DataInspectOptions("x").near == NEAR
    assert DataInspectOptions("x", near=BITS).near == BITS
    with pytest.raises(UserError, match=f"expected 0 to {BITS}"):
        DataInspectOptions("x", near=BITS + 1)


def test_first_matches_are_those_of_all_pairs(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyeqgan.data.inspection.duplicates.ROWS", 7)
    monkeypatch.setattr("pyeqgan.data.inspection.duplicates.COLUMNS", 5)
    bits = rng.random((40, BITS)) < 0.5
    for copy, original, flips in ((9, 3, 0), (20, 3, 4), (21, 20, 10), (39, 0, 11), (33, 32, 10)):
        bits[copy] = bits[original]
        bits[copy, rng.permutation(BITS)[:flips]] ^= True
    distance = (bits[:, None] != bits[None]).sum(2)
    for near in (0, 4, 10, 11, BITS):
        expected = [next((j for j in range(i) if distance[i, j] <= near), -1) for i in range(40)]
        assert first_matches(bits, near).tolist() == expected


def test_good_data_are_told_and_nothing_is_wrong(
    capsys: pytest.CaptureFixture[str], flowers: Path, tmp_path: Path
) -> None:
    before = builds.fingerprint(flowers)
    status, told = _inspect(capsys, flowers, "--output", tmp_path / "out")
    assert status == 0 and told[1:6] == [
        "4 classes, 3 seen and 1 unseen; 20 images",
        "images a class: 5 to 5, median 5; the largest has 1 times those of the smallest",
        "sizes: 20 96×96; modes: 20 RGB",
        "exact duplicates: 0",
        "near duplicates, up to 10 bits: 0",
    ]
    assert builds.fingerprint(flowers) == before
    found = json.loads((tmp_path / "out" / "inspect.json").read_text())
    assert found["classes"][3] == {"name": "d", "images": 5, "seen": False} and found["wrong"] == []
    sheet = np.asarray(Image.open(tmp_path / "out" / "contact_sheet.png"))
    shown = np.asarray(Image.open(flowers / "b" / "3.png").resize((64, 64), Image.Resampling.LANCZOS))
    top, left = 4 + 16 + 84, 4 + 3 * 68
    assert np.abs(sheet[top : top + 64, left : left + 64].astype(int) - shown).max() <= 1
    assert cli.main(["data", "inspect", str(flowers), "--output", str(tmp_path / "out")]) == 2
    assert "already holds inspect.json: --force replaces it" in capsys.readouterr().err
    assert _inspect(capsys, flowers, "--output", tmp_path / "out", "--force")[0] == 0


def test_what_is_wrong_is_told_on_a_line_each(
    capsys: pytest.CaptureFixture[str], flowers: Path, tmp_path: Path
) -> None:
    (flowers / "a" / "4.png").write_bytes((flowers / "a" / "1.png").read_bytes())
    _jpeg(Image.open(flowers / "b" / "2.png"), 85).save(flowers / "c" / "copy.jpg", quality=85)
    Image.open(flowers / "c" / "0.png").convert("RGBA").resize((200, 200)).save(flowers / "d" / "leak.png")
    (flowers / "b" / "0.png").write_bytes(b"no picture")
    (flowers / "c" / "3.png").write_bytes((flowers / "c" / "3.png").read_bytes()[:-50])
    for index in (1, 2, 3, 4):
        (flowers / "d" / f"{index}.png").unlink()
    status, told = _inspect(capsys, flowers, "--output", tmp_path / "out", "--shots", 3)
    wrong = [line.removeprefix("wrong: ") for line in told if line.startswith("wrong: ")]
    assert status == 1 and len(wrong) == 4
    assert wrong[0] == f"cannot read image '{flowers}/b/0.png': not an image"
    assert wrong[1].startswith(f"cannot read image '{flowers}/c/3.png': ")
    assert wrong[2].startswith("unseen d/leak.png is seen c/0.png: ")
    assert wrong[3] == "class 'd' has 2 images, --shots 3"
    assert "images a class: 2 to 6, median 5; the largest has 3 times those of the smallest" in told
    assert "sizes: 19 96×96, 1 200×200, 1 unknown; modes: 19 RGB, 1 RGBA, 1 unknown" not in told
    found = json.loads((tmp_path / "out" / "inspect.json").read_text())
    assert found["wrong"] == wrong and list(found["corrupt"]) == ["b/0.png", "c/3.png"]
    assert found["exact_duplicates"] == [["a/1.png", "a/4.png"]]
    pairs = {(pair["image"], pair["of"]): pair["where"] for pair in found["near_duplicates"]}
    assert pairs == {
        ("a/4.png", "a/1.png"): "within a class",
        ("c/copy.jpg", "b/2.png"): "across classes",
        ("d/leak.png", "c/0.png"): "across the split",
    }
    assert found["sizes"] == {"96×96": 16, "unknown": 1, "200×200": 1} and found["modes"]["RGBA"] == 1
    assert _inspect(capsys, flowers, "--seen-classes", 4, "--shots", 1)[1].count("wrong: unseen") == 0


def test_arrays_and_the_embedded_flowers_are_inspected_too(
    capsys: pytest.CaptureFixture[str], flowers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    builds.make(flowers, tmp_path / "built", image_size=48)
    status, told = _inspect(capsys, tmp_path / "built")
    assert status == 0 and "sizes: 20 48×48; modes: 20 RGB" in told
    pixels = np.load(tmp_path / "built" / "images.npy").reshape(4, 5, 48, 48, 3) / np.float32(255)
    pixels[3, 2] = pixels[1, 1]
    pixels[0, 3, 5, 5, 0] = 7
    np.save(tmp_path / "floats.npy", pixels)
    status, told = _inspect(capsys, tmp_path / "floats.npy")
    assert status == 1
    assert [line for line in told if line.startswith("wrong: ")] == [
        f"wrong: image 3 of class 0 in '{tmp_path}/floats.npy' has values from {pixels[0, 3].min():g} to 7, expected "
        "floats from 0 to 1",
        "wrong: unseen class_0003/2 is seen class_0001/1: 0 bits differ",
    ]
    monkeypatch.setattr("pyeqgan.data.classes.EMBEDDED_CLASSES", 4)
    monkeypatch.setattr("pyeqgan.data.classes.EMBEDDED_IMAGES", 4)
    status, told = _inspect(capsys, "embedded")
    assert status == 0 and "sizes: 16 64×64; modes: 16 RGB" in told


@pytest.mark.parametrize("form", ["zip", "tar", "gztar"])
def test_an_archive_is_inspected_as_its_folder_would_be(
    capsys: pytest.CaptureFixture[str], flowers: Path, tmp_path: Path, form: str
) -> None:
    (flowers / "b" / "0.png").write_bytes(b"no picture")
    Image.open(flowers / "c" / "0.png").resize((200, 200)).save(flowers / "d" / "leak.png")
    archive = shutil.make_archive(str(tmp_path / "packed"), form, flowers.parent, flowers.name)
    before = Path(archive).read_bytes()
    status, told = _inspect(capsys, archive, "--output", tmp_path / "out")
    assert status == 1
    assert told[:-1] == [line.replace(f"{flowers.parent}/", "") for line in _inspect(capsys, flowers)[1]]
    assert "wrong: cannot read image 'flowers/b/0.png': not an image" in told
    assert Image.open(tmp_path / "out" / "contact_sheet.png").height > 4 * 64
    assert Path(archive).read_bytes() == before
    assert {entry.name for entry in tmp_path.iterdir()} == {"flowers", "out", Path(archive).name}


def test_checksums_of_built_data_are_looked_at(
    capsys: pytest.CaptureFixture[str], flowers: Path, tmp_path: Path
) -> None:
    builds.make(flowers, tmp_path / "built")
    data = bytearray((tmp_path / "built" / "images.npy").read_bytes())
    data[-1] ^= 255
    (tmp_path / "built" / "images.npy").write_bytes(data)
    status, told = _inspect(capsys, tmp_path / "built")
    assert status == 1 and [line for line in told if "wrong" in line] == [
        "wrong: images.npy: its checksum differs from that of pyeqgan.json",
        "wrong: images.npy: the image of 'd/4.png', class 'd', is not what it was",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("NOWHERE", "no folder"),
        ("FLOWERS/a/0.png", "is no folder, zip or tar"),
        ("FLOWERS --near 144", "--near 144, expected 0 to 143"),
        ("FLOWERS --shots 0", "--shots 0, expected at least 1"),
        ("FLOWERS --seen-classes 5", "--seen-classes 5, expected 1 to 4"),
        ("FLOWERS --output FLOWERS/a/0.png", "cannot write"),
    ],
)
def test_bad_input_is_told_on_one_line(
    capsys: pytest.CaptureFixture[str], flowers: Path, tmp_path: Path, arguments: str, message: str
) -> None:
    words = arguments.replace("FLOWERS", str(flowers)).replace("NOWHERE", str(tmp_path / "nowhere")).split()
    assert cli.main(["data", "inspect", *words]) == 2
    told = capsys.readouterr().err
    assert told.startswith("pyeqgan: ") and told.count("\n") == 1 and message in told
