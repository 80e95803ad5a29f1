import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pyeqgan.data import FolderClasses
from pyeqgan.errors import UserError

FLOWERS = Path(__file__).parents[3] / "shared" / "data" / "flowers12"


def _save(path: Path, colour: tuple[int, int, int] = (200, 40, 90), size: tuple[int, int] = (40, 40)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


def _read(root: Path, size: int = 32) -> np.ndarray:
    classes = FolderClasses(root, size)
    assert len(classes) == 1 and classes.count(0) == 1
    return classes.image(0, 0)


def _complaint(root: Path) -> str | None:
    """What is said of the one image, None if it can be read; anything but a UserError fails the test."""
    try:
        image = _read(root)
    except UserError as error:
        return str(error)
    assert image.shape == (32, 32, 3)
    return None


def _about(image: np.ndarray, colour: tuple[int, int, int], tolerance: int = 3) -> bool:
    return image.shape == (32, 32, 3) and bool((np.abs(image.astype(int) - colour) <= tolerance).all())


def test_classes_and_images_are_sorted_by_name(tmp_path: Path) -> None:
    for name in ("b/2.png", "b/10.png", "a/x.png", "C/y.png"):
        _save(tmp_path / name, (len(name), int("10" in name), 0))
    classes = FolderClasses(tmp_path, 32)
    assert list(classes.class_names) == ["C", "a", "b"]
    assert [classes.count(index) for index in range(3)] == [1, 1, 2]
    assert classes.image(2, 0)[0, 0].tolist() == [8, 1, 0]  # "10.png" sorts before "2.png"


def test_only_images_count(tmp_path: Path) -> None:
    for name in ("one/a.jpg", "one/b.JPEG", "one/c.Png", "one/d.webp", "one/e.BMP", "one/.hidden.png", ".git/f.png"):
        _save(tmp_path / name)
    _save(tmp_path / "one" / "deeper" / "g.png")
    _save(tmp_path / "loose.png")
    (tmp_path / "one" / "notes.txt").write_text("x")
    (tmp_path / "one" / "folder.png").mkdir()
    os.mkfifo(tmp_path / "one" / "pipe.png")
    classes = FolderClasses(tmp_path, 32)
    assert list(classes.class_names) == ["one"] and classes.count(0) == 5
    assert all(_about(classes.image(0, index), (200, 40, 90), 6) for index in range(5))


@pytest.mark.parametrize("name", ["Gänseblümchen", "バラ", "with space", "new\nline", "🌼", "-rf", "'quote\""])
def test_any_name_will_do(tmp_path: Path, name: str) -> None:
    _save(tmp_path / name / f"{name}.png")
    assert FolderClasses(tmp_path, 32).class_names == (name,)
    assert _about(_read(tmp_path), (200, 40, 90))


def test_a_name_that_is_no_text_can_still_be_reported(tmp_path: Path) -> None:
    os.makedirs(os.fsencode(tmp_path) + b"/caf\xe9")
    with pytest.raises(UserError) as raised:
        FolderClasses(tmp_path, 32)
    assert "caf" in str(raised.value).encode("utf-8").decode()


def test_links_are_followed_and_loops_end(tmp_path: Path) -> None:
    _save(tmp_path / "elsewhere" / "a.png")
    root = tmp_path / "root"
    root.mkdir()
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "broken").symlink_to(tmp_path / "nowhere")
    (root / "itself").symlink_to(root / "itself")
    (tmp_path / "elsewhere" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    assert _about(_read(root), (200, 40, 90))
    (root / "up").symlink_to(root)
    with pytest.raises(UserError, match=r"without an image .*'up'"):
        FolderClasses(root, 32)


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no folder '.*nowhere'"):
        FolderClasses(tmp_path / "nowhere", 32)


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no folder"):
        FolderClasses(_save(tmp_path / "a.png"), 32)


def test_no_class_folders(tmp_path: Path) -> None:
    _save(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"no class folders in .*, expected one folder of images per class"):
        FolderClasses(tmp_path, 32)


def test_classes_without_images_are_named(tmp_path: Path) -> None:
    _save(tmp_path / "good" / "a.png")
    for index in range(7):
        (tmp_path / f"empty{index}").mkdir()
    with pytest.raises(UserError, match=r"'empty0', .*'empty4' and 2 more") as raised:
        FolderClasses(tmp_path, 32)
    assert "good" not in str(raised.value).rpartition(":")[2]


def test_image_size_is_checked_first(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="image size 50"):
        FolderClasses(tmp_path / "nowhere", 50)


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "noise"])
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp"])
def test_a_damaged_image_is_named_when_it_is_read(
    tmp_path: Path, rng: np.random.Generator, damage: str, suffix: str
) -> None:
    _save(tmp_path / "c" / f"a{suffix}")
    path = tmp_path / "c" / f"b{suffix}"
    Image.fromarray(rng.integers(0, 256, (90, 90, 3), dtype=np.uint8)).save(path)
    whole = path.read_bytes()
    path.write_bytes(
        {"cut": whole[: len(whole) // 2], "empty": b"", "text": b"no image at all", "noise": rng.bytes(500)}[damage]
    )
    classes = FolderClasses(tmp_path, 32)
    assert _about(classes.image(0, 0), (200, 40, 90), 6)
    for _ in range(2):  # a failure is not remembered as an image
        with pytest.raises(UserError, match=rf"cannot read image '.*b\{suffix}': .+") as raised:
            classes.image(0, 1)
        assert "\n" not in str(raised.value)
    path.write_bytes(whole)
    assert classes.image(0, 1).shape == (32, 32, 3)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_random_damage_never_escapes(tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10**6)  # so that no damaged header asks for much memory
    path = tmp_path / "c" / "a.png"
    pixels = rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)
    for suffix in ("jpeg", "png", "webp", "bmp"):
        _save(path)
        Image.fromarray(pixels).save(path, suffix)
        whole = np.frombuffer(path.read_bytes(), np.uint8)
        for _ in range(150):
            damaged = whole.copy()
            damaged[rng.integers(0, len(damaged), 6)] = rng.integers(0, 256, 6)
            path.write_bytes(damaged.tobytes())
            complaint = _complaint(tmp_path)
            assert complaint is None or (str(path) in complaint and "\n" not in complaint)


def test_an_image_deleted_meanwhile_is_named(tmp_path: Path) -> None:
    path = _save(tmp_path / "c" / "a.png")
    classes = FolderClasses(tmp_path, 32)
    path.unlink()
    with pytest.raises(UserError, match=r"cannot read image '.*a\.png'"):
        classes.image(0, 0)


def test_other_formats_are_refused_whatever_they_are_called(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "c" / "a.jpg", "TIFF")
    with pytest.raises(UserError, match="not an image"):
        _read(tmp_path)


def test_a_wrong_suffix_of_a_known_format_is_fine(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    Image.new("RGB", (9, 9), (1, 2, 3)).save(tmp_path / "c" / "a.jpg", "PNG")
    assert _about(_read(tmp_path), (1, 2, 3), 0)


def test_exif_orientation_is_honoured(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:32] = 250  # bright above as stored, which orientation 6 turns to the right
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "c" / "a.jpg", exif=exif, quality=95)
    image = _read(tmp_path)
    assert image[:, 20:].mean() > 230 and image[:, :12].mean() < 20


def test_sixteen_bit_greyscale_keeps_its_range(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    ramp = np.linspace(0, 65535, 64).astype(np.uint16)
    Image.fromarray(np.repeat(ramp[None], 64, 0)).save(tmp_path / "c" / "a.png")
    row = _read(tmp_path)[16].astype(int)
    assert (row == row[:, :1]).all() and (np.abs(row[:, 0] - np.linspace(2, 253, 32)) <= 4).all()


def test_other_modes(tmp_path: Path) -> None:
    for mode in ("L", "P", "1", "CMYK", "YCbCr"):
        path = tmp_path / mode / "c" / ("a.jpg" if mode in ("CMYK", "YCbCr") else "a.png")
        path.parent.mkdir(parents=True)
        Image.new("RGB", (40, 40), (255, 255, 255)).convert(mode).save(path)
        assert _about(_read(tmp_path / mode), (255, 255, 255))
    (tmp_path / "colour" / "c").mkdir(parents=True)
    Image.new("RGB", (40, 40), (220, 60, 40)).convert("CMYK").save(tmp_path / "colour" / "c" / "a.jpg")
    assert _about(_read(tmp_path / "colour"), (220, 60, 40), 8)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_lies_on_white(tmp_path: Path, mode: str) -> None:
    (tmp_path / "c").mkdir()
    if mode == "P":
        Image.new("P", (40, 40), 0).save(tmp_path / "c" / "a.png", transparency=0)
        expected = 255
    else:
        Image.new(mode, (40, 40), (0, 0, 0, 128) if mode == "RGBA" else (0, 128)).save(tmp_path / "c" / "a.png")
        expected = 127
    assert _about(_read(tmp_path), (expected,) * 3, 1)


def test_animation_gives_its_first_frame(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    frames = [Image.new("RGB", (40, 40), colour) for colour in ((200, 0, 0), (0, 200, 0))]
    frames[0].save(tmp_path / "c" / "a.webp", save_all=True, append_images=frames[1:], lossless=True)
    assert _about(_read(tmp_path), (200, 0, 0))


@pytest.mark.parametrize("size", [(1, 1), (1, 900), (900, 1), (31, 33)])
def test_small_and_long_images(tmp_path: Path, size: tuple[int, int]) -> None:
    _save(tmp_path / "c" / "a.png", size=size)
    assert _about(_read(tmp_path), (200, 40, 90), 0)


def test_a_large_jpeg_is_decoded_like_any_other(tmp_path: Path, rng: np.random.Generator) -> None:
    coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    smooth = coarse.resize((1024, 1024), Image.Resampling.BICUBIC)
    for suffix in ("jpg", "png"):
        (tmp_path / suffix / "c").mkdir(parents=True)
        smooth.save(tmp_path / suffix / "c" / f"a.{suffix}", quality=95)
    difference = _read(tmp_path / "jpg").astype(int) - _read(tmp_path / "png")
    assert np.abs(difference).mean() < 2


def test_a_decompression_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _save(tmp_path / "c" / "a.png", size=(100, 100))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(UserError, match="decompression bomb"):
        _read(tmp_path)


def test_indices_never_wrap(tmp_path: Path) -> None:
    _save(tmp_path / "c" / "a.png")
    classes = FolderClasses(tmp_path, 32)
    for wrong in (-1, 1):
        with pytest.raises(IndexError):
            classes.image(0, wrong)
        with pytest.raises(IndexError):
            classes.count(wrong)


def test_images_are_decoded_once_within_the_limit(tmp_path: Path) -> None:
    for name in "ab":
        _save(tmp_path / "c" / f"{name}.png")
    kept, not_kept = FolderClasses(tmp_path, 32), FolderClasses(tmp_path, 32, cache_bytes=32 * 32 * 3)
    for classes in (kept, not_kept):
        first = classes.image(0, 0)
        classes.image(0, 1)
        assert (classes.image(0, 0) is first) == (classes is kept)


@pytest.mark.skipif(not FLOWERS.is_dir(), reason="the photographs of shared/data are not here")
def test_real_photographs() -> None:
    classes = FolderClasses(FLOWERS, 64)
    assert len(classes) == 12 and classes.class_names[0] == "bluebell" and classes.count(0) == 80
    images = np.stack([classes.image(index, 0) for index in range(12)])
    assert images.std() > 30
