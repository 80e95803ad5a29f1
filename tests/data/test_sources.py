import io
import os
import tarfile
import zipfile
from pathlib import Path

import builds
import numpy as np
import pytest
from builds import make
from PIL import Image

from pyeqgan.data.building import sources
from pyeqgan.data.building.sources import open_source
from pyeqgan.data.built import read_manifest
from pyeqgan.errors import UserError


def _png(side: int = 40) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (side, side), "red").save(data, "PNG")
    return data.getvalue()


def _zip(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def _tar(path: Path, members: dict[str, bytes | tarfile.TarInfo], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in members.items():
            about = tarfile.TarInfo(name) if isinstance(data, bytes) else data
            about.size = len(data) if isinstance(data, bytes) else 0
            archive.addfile(about, io.BytesIO(data) if isinstance(data, bytes) else None)
    return path


def _packers() -> list[object]:
    return [
        pytest.param(lambda path, members: _zip(path / "a.zip", members), id="zip"),
        pytest.param(lambda path, members: _tar(path / "a.tar", members), id="tar"),
        pytest.param(lambda path, members: _tar(path / "a.tar.gz", members, "w:gz"), id="tar.gz"),
    ]


@pytest.mark.parametrize("pack", _packers())
def test_only_images_that_are_not_hidden_count(tmp_path: Path, pack) -> None:  # type: ignore[no-untyped-def]
    names = ["p/a/1.JPG", "p/a/2.webp", "p/b/c/3.png", "p/a/.4.png", "p/.x/5.png", "__MACOSX/p/a/1.JPG", "p/a/6.txt"]
    source = open_source(pack(tmp_path, dict.fromkeys(names, _png())), tmp_path)
    assert source.names() == ["p/a/1.JPG", "p/a/2.webp", "p/b/c/3.png"]
    assert source.read("p/b/c/3.png") == _png()


@pytest.mark.parametrize("name", ["../a/1.png", "a/../../b/1.png", "/etc/1.png", "a\\..\\1.png", "\\a\\1.png"])
@pytest.mark.parametrize("pack", _packers())
def test_names_that_lead_out_are_refused(tmp_path: Path, pack, name: str) -> None:  # type: ignore[no-untyped-def]
    inner = tmp_path / "inner"
    inner.mkdir()
    with pytest.raises(UserError, match="a name that leads out of it: refused"):
        make(pack(inner, {"a/0.png": _png(), name: _png()}), inner / "built")
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} <= {".zip", ".tar", ".gz"}


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_links_in_a_tar_are_refused(tmp_path: Path, kind: bytes) -> None:
    link = tarfile.TarInfo("a/link.png")
    link.type, link.linkname = kind, "/etc/passwd"
    with pytest.raises(UserError, match=r"'a/link\.png' .* is a link, expected a file"):
        open_source(_tar(tmp_path / "a.tar", {"a/1.png": _png(), "a/link.png": link}), tmp_path)


def test_archives_that_grow_beyond_measure_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "ALWAYS_ALLOWED", 10**5)
    zeros = {"a/1.png": bytes(10**7)}
    before = sorted(tmp_path.iterdir())
    for path in (
        _tar(tmp_path / "a.tgz", zeros, "w:gz"),  # type: ignore[arg-type]
        _tar(tmp_path / "a.tar.xz", zeros, "w:xz"),  # type: ignore[arg-type]
        _zip(tmp_path / "a.zip", zeros, zipfile.ZIP_DEFLATED),
    ):
        with pytest.raises(UserError, match="holds more than 100 times its own size: refused"):
            make(path, tmp_path / "built")
        path.unlink()
    assert sorted(tmp_path.iterdir()) == before, "what had been decompressed is gone"


def test_an_image_of_too_many_pixels_or_bytes_is_one_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bomb = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(bomb, "PNG")
    monkeypatch.setattr(sources, "LARGEST_FILE", 10**5)
    (tmp_path / "photos" / "a").mkdir(parents=True)
    for name, data in (("1", _png()), ("2", bomb.getvalue()), ("3", bytes(2 * 10**5))):
        (tmp_path / "photos" / "a" / f"{name}.png").write_bytes(data)
    for pack in (None, "a.zip", "a.tar"):
        source = tmp_path / "photos" if pack is None else builds.pack(tmp_path / "photos", tmp_path / pack)
        make(source, tmp_path / f"built{pack}", skip_corrupt=True)
        why = [line["why"] for line in read_manifest(tmp_path / f"built{pack}").left_out]
        assert len(why) == 2 and "decompression bomb" in why[0] and "its file is larger than 0 MiB" in why[1]


def test_links_are_followed_but_not_back_up(tmp_path: Path) -> None:
    (tmp_path / "far" / "b").mkdir(parents=True)
    (tmp_path / "near" / "a").mkdir(parents=True)
    for place in ("far/b/1.png", "near/a/2.png"):
        (tmp_path / place).write_bytes(_png())
    (tmp_path / "near" / "b").symlink_to(tmp_path / "far" / "b")
    (tmp_path / "near" / "a" / "up").symlink_to(tmp_path / "near")
    (tmp_path / "near" / "a" / "broken.png").symlink_to(tmp_path / "nowhere")
    assert open_source(tmp_path / "near", tmp_path).names() == ["a/2.png", "b/1.png"]


@pytest.mark.parametrize("damage", ["cut", "noise", "empty", "text", "cut gz", "noise gz", "directory of zip"])
def test_damaged_archives_are_told_on_one_line(tmp_path: Path, rng: np.random.Generator, damage: str) -> None:
    members = {f"{name}/{i}.png": rng.bytes(3000) for name in "ab" for i in range(3)}
    path = _tar(tmp_path / "a.tar.gz", members, "w:gz") if "gz" in damage else _zip(tmp_path / "a.zip", members)  # type: ignore[arg-type]
    data = bytearray(path.read_bytes())
    if "cut" in damage:
        data = data[: len(data) // 2]
    elif "noise" in damage:
        data[200:400] = rng.bytes(200)
    elif damage == "directory of zip":
        data[-200:-100] = rng.bytes(100)
    else:
        data = bytearray(b"" if damage == "empty" else b"no archive")
    path.write_bytes(data)
    with pytest.raises(UserError) as raised:
        make(path, tmp_path / "built")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "built").exists()


def test_an_encrypted_member_is_told(tmp_path: Path) -> None:
    path = _zip(tmp_path / "a.zip", {"a/1.png": _png()})
    data = bytearray(path.read_bytes())
    data[6] |= 1  # the local header's flag, and the directory's
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"cannot read image 'a/1.png': .*encrypted"):
        make(path, tmp_path / "built")


def test_what_is_no_source_is_told(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "loose").mkdir()
    (tmp_path / "loose" / "1.png").write_bytes(_png())
    for path, message in (
        (tmp_path / "nowhere", "no file or folder"),
        (tmp_path / "empty", "holds no images"),
        (_zip(tmp_path / "empty.zip", {}), "holds no images"),
        (_zip(tmp_path / "loose.zip", {"1.png": _png()}), "holds loose images only"),
    ):
        with pytest.raises(UserError, match=message):
            make(path, tmp_path / "built")
    with pytest.raises(UserError, match="image size 50"):
        make(tmp_path / "loose", tmp_path / "built", image_size=50)
    with pytest.raises(UserError, match="cannot write"):
        make(tmp_path / "loose", tmp_path / "empty.zip" / "built")


def test_a_folder_that_cannot_be_listed_is_told(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may list every folder")
    (tmp_path / "photos" / "a").mkdir(parents=True)
    (tmp_path / "photos" / "a").chmod(0)
    with pytest.raises(UserError, match="cannot list"):
        make(tmp_path / "photos", tmp_path / "built")
