import hashlib
import json
import os
import shutil
from pathlib import Path

import builds
import numpy as np
import pytest
import runs
from builds import contents, make

from pyeqgan.data import ArchiveClasses, BuiltClasses, FolderClasses, open_data
from pyeqgan.data.built import Manifest, damage, read_manifest
from pyeqgan.errors import UserError
from pyeqgan.files import locked

COUNTS = {"b": 5, "a": 3, "d": 4, "c": 6}


@pytest.fixture
def photos(tmp_path: Path, rng: np.random.Generator) -> Path:
    return builds.write_photos(tmp_path / "photos", rng, COUNTS)


@pytest.fixture
def built(photos: Path, tmp_path: Path) -> Path:
    make(photos, tmp_path / "built")
    return tmp_path / "built"


def _manifest(folder: Path) -> Manifest:
    return read_manifest(folder)


def test_what_is_built_is_what_the_folder_holds(photos: Path, built: Path) -> None:
    folder, classes = FolderClasses(photos, 32), BuiltClasses(built, 32)
    assert list(classes.class_names) == list(folder.class_names) == ["a", "b", "c", "d"]
    for index, name in enumerate("abcd"):
        assert classes.count(index) == COUNTS[name]
        for image in range(COUNTS[name]):
            assert np.array_equal(classes.image(index, image), folder.image(index, image))
    array = np.load(built / "images.npy", mmap_mode="r")
    assert array.shape == (18, 32, 32, 3) and array.dtype == np.uint8
    assert sorted(contents(built)) == ["images.npy", "pyeqgan.json", "sources.jsonl"]
    assert damage(built) == [] and not list(photos.parent.glob(".*"))


def test_every_image_has_its_file_and_checksum(photos: Path, built: Path) -> None:
    lines = [json.loads(line) for line in (built / "sources.jsonl").read_text().splitlines()]
    assert [line["file"] for line in lines] == sorted(str(p.relative_to(photos)) for p in photos.rglob("*.png"))
    for line in lines:
        assert line["sha256"] == hashlib.sha256((photos / line["file"]).read_bytes()).hexdigest()


def test_the_split_is_the_default_and_the_seen_come_first(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("d\n\nb\n")
    told = make(photos, tmp_path / "built", seen_classes=str(tmp_path / "names.txt"))
    assert told == [f"18 images of 32² in 2 seen and 2 unseen classes: {tmp_path / 'built'}"]
    split = open_data(tmp_path / "built", image_size=32)
    assert list(split.seen.class_names) == ["b", "d"] and list(split.unseen.class_names) == ["a", "c"]
    again = open_data(tmp_path / "built", image_size=32, seen_classes=len(split.seen))
    assert list(again.seen.class_names) == ["b", "d"], "a run keeps the number alone"
    assert np.array_equal(split.unseen.image(0, 2), FolderClasses(photos, 32).image(0, 2))
    assert [about["offset"] for about in _manifest(tmp_path / "built").classes] == [0, 5, 9, 12]


def test_another_size_is_resized(photos: Path, built: Path) -> None:
    image = BuiltClasses(built, 64).image(1, 4)
    assert image.shape == (64, 64, 3)
    assert np.abs(image.mean((0, 1)) - BuiltClasses(built, 32).image(1, 4).mean((0, 1))).max() < 3


def test_the_number_of_workers_changes_no_byte(photos: Path, tmp_path: Path) -> None:
    for workers in (1, 2, 7):
        make(photos, tmp_path / str(workers), workers=workers)
    assert contents(tmp_path / "1") == contents(tmp_path / "2") == contents(tmp_path / "7")


@pytest.mark.parametrize("name", ["p.zip", "p.tar", "p.tar.gz", "p.tgz", "p.tar.bz2", "p.tar.xz"])
def test_archives_are_as_folders(photos: Path, built: Path, tmp_path: Path, name: str) -> None:
    make(builds.pack(photos, tmp_path / name), tmp_path / "other")
    assert contents(tmp_path / "other")["images.npy"] == contents(built)["images.npy"]
    source = _manifest(tmp_path / "other").sources[0]
    assert source["sha256"] == hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
    assert not list(tmp_path.glob(".*"))


def test_sources_are_never_changed(photos: Path, tmp_path: Path) -> None:
    builds.pack(photos, photos / "inside.tar.gz")
    before = builds.fingerprint(photos)
    make(photos, tmp_path / "a")
    make(photos / "inside.tar.gz", tmp_path / "b")
    assert builds.fingerprint(photos) == before


def test_another_source_has_the_unseen(photos: Path, tmp_path: Path, rng: np.random.Generator) -> None:
    others = builds.pack(builds.write_photos(tmp_path / "others", rng, {"Z": 2, "Y": 3}), tmp_path / "others.zip")
    make(photos, tmp_path / "built", unseen=others)
    split = open_data(tmp_path / "built", image_size=32)
    assert list(split.seen.class_names) == list("abcd") and list(split.unseen.class_names) == ["Y", "Z"]
    with pytest.raises(UserError, match="4 classes are in both sources, 'a' among them"):
        make(photos, tmp_path / "twice", unseen=photos)
    assert not (tmp_path / "twice").exists() and not list(tmp_path.glob(".*"))


def test_lofgans_form_has_equal_counts(photos: Path, built: Path, tmp_path: Path) -> None:
    told = make(photos, tmp_path / "lofgan", format="lofgan")
    assert told[0] == "each class has 3 images, the first by name: LoFGAN's form has equal counts"
    array = np.load(tmp_path / "lofgan" / "images.npy")
    assert array.shape == (4, 3, 32, 32, 3)
    whole, cut = BuiltClasses(built, 32), BuiltClasses(tmp_path / "lofgan", 32)
    plain = ArchiveClasses(tmp_path / "lofgan" / "images.npy", 32)
    for c in range(4):
        assert cut.count(c) == 3
        for i in range(3):
            assert np.array_equal(cut.image(c, i), whole.image(c, i))
            assert np.array_equal(cut.image(c, i), plain.image(c, i))
    make(photos, tmp_path / "two", format="lofgan", images_per_class=2)
    assert np.array_equal(np.load(tmp_path / "two" / "images.npy"), array[:, :2])
    with pytest.raises(UserError, match="--images-per-class 4: class 'a' has 3; --min-images leaves it out"):
        make(photos, tmp_path / "four", format="lofgan", images_per_class=4)
    make(photos, tmp_path / "four", format="lofgan", images_per_class=4, min_images=4)
    assert np.load(tmp_path / "four" / "images.npy").shape == (3, 4, 32, 32, 3)
    assert _manifest(tmp_path / "four").left_out == [{"class": "a", "why": "3 images, --min-images 4"}]


def test_an_image_that_cannot_be_read_stops_the_build_until_it_is_mended(
    photos: Path, built: Path, tmp_path: Path
) -> None:
    whole = (photos / "c" / "1.png").read_bytes()
    (photos / "c" / "1.png").write_bytes(whole[:-100])
    with pytest.raises(UserError, match=r"cannot read image 'c/1\.png': .*; --skip-corrupt leaves it out"):
        make(photos, tmp_path / "again")
    assert not (tmp_path / "again").exists()
    (photos / "c" / "1.png").write_bytes(whole)
    assert make(photos, tmp_path / "again")[0] == "going on after 9 of 18 images"
    assert contents(tmp_path / "again") == contents(built)


def test_skipped_images_are_listed_and_replaced_where_counts_are_given(photos: Path, tmp_path: Path) -> None:
    for name in ("a/0.png", "c/1.png", "c/5.png"):
        (photos / name).write_bytes(b"no picture")
    told = make(photos, tmp_path / "flat", skip_corrupt=True)
    assert "left out: 3, 'a/0.png' the first (cannot read image 'a/0.png': not an image)" in told[0]
    assert [line["file"] for line in _manifest(tmp_path / "flat").left_out] == ["a/0.png", "c/1.png", "c/5.png"]
    assert [about["images"] for about in _manifest(tmp_path / "flat").classes] == [2, 5, 4, 4]
    make(photos, tmp_path / "two", skip_corrupt=True, images_per_class=2, format="lofgan")
    folder, two = FolderClasses(photos, 32), BuiltClasses(tmp_path / "two", 32)
    for c, images in ((0, (1, 2)), (1, (0, 1)), (2, (0, 2)), (3, (0, 1))):
        assert all(np.array_equal(two.image(c, i), folder.image(c, images[i])) for i in range(2))
    with pytest.raises(UserError, match="class 'a' has 2 images that can be read, expected 3"):
        make(photos, tmp_path / "three", skip_corrupt=True, format="lofgan")
    for path in (photos / "d").iterdir():
        path.write_bytes(b"")
    with pytest.raises(UserError, match="class 'd' has 0 images that can be read, expected 1"):
        make(photos, tmp_path / "none", skip_corrupt=True)


@pytest.mark.timeout(300)
def test_killed_anywhere_the_same_command_ends_as_if_nothing_had_been(
    photos: Path, tmp_path: Path, rng: np.random.Generator
) -> None:
    """At every operation on a file of the build, and at random images; each once, then again until the end."""
    (photos / "b" / "2.png").write_bytes(b"no picture")
    options = {"skip_corrupt": True, "images_per_class": 4, "workers": 3}
    make(photos, tmp_path / "straight", **options)
    killed = 0
    for touch in range(1, 100):
        output = tmp_path / f"touched{touch}"
        if builds.make_until_killed(photos, output, touches=touch, **options) == 0:
            break
        killed += 1
        make(photos, output, **options)
        assert contents(output) == contents(tmp_path / "straight"), touch
    else:
        pytest.fail("no build came to its end")
    assert killed >= 8
    archive = builds.pack(photos, tmp_path / "photos.tar.gz")
    output = tmp_path / "often"
    for image in rng.integers(1, 10, 6).tolist():
        builds.make_until_killed(photos, output, images=image, **options)
        builds.make_until_killed(archive, tmp_path / "packed", touches=image, **options)
    for source, place in ((photos, output), (archive, tmp_path / "packed")):
        if not place.exists():
            make(source, place, **options)
        assert contents(place)["images.npy"] == contents(tmp_path / "straight")["images.npy"]
    assert not list(tmp_path.glob(".*"))


def test_half_a_line_and_pixels_without_one_are_made_again(photos: Path, built: Path, tmp_path: Path) -> None:
    (photos / "d" / "3.png").rename(tmp_path / "away")
    (photos / "d" / "3.png").write_bytes(b"no picture")
    with pytest.raises(UserError):
        make(photos, tmp_path / "other")
    (tmp_path / "away").rename(photos / "d" / "3.png")
    work = tmp_path / ".other.building"
    journal, images = (work / "sources.jsonl").read_bytes(), (work / "images.npy").read_bytes()
    for damaged_journal, damaged_images, kept in (
        (journal[:-20], images + b"x" * 500, 16),
        (journal, images[:-1], 16),
        (journal, images[:-3072] + bytes(3072), 16),
        (journal + b"{", images, 17),
        (b"", b"", 0),
    ):
        copy = shutil.copytree(work, tmp_path / ".copy.building")
        (copy / "sources.jsonl").write_bytes(damaged_journal)
        (copy / "images.npy").write_bytes(damaged_images)
        told = make(photos, tmp_path / "copy")
        assert told[0].startswith(f"going on after {kept} of 18" if kept else "18 images")
        assert contents(tmp_path / "copy") == contents(built)
        shutil.rmtree(tmp_path / "copy")


def test_another_build_is_not_continued_unless_forced(photos: Path, tmp_path: Path) -> None:
    (photos / "d" / "0.png").write_bytes(b"no picture")
    with pytest.raises(UserError):
        make(photos, tmp_path / "built")
    with pytest.raises(UserError, match="holds an unfinished build of other images or with other options"):
        make(photos, tmp_path / "built", image_size=64)
    make(photos, tmp_path / "built", image_size=64, force=True, skip_corrupt=True)
    assert _manifest(tmp_path / "built").image_size == 64


def test_nothing_is_overwritten_without_force_and_only_built_data_with_it(photos: Path, built: Path) -> None:
    before = contents(built)
    with pytest.raises(UserError, match="already holds built data: --force replaces it"):
        make(photos, built, image_size=64)
    (photos / "a" / "0.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match="cannot read image"):
        make(photos, built, force=True)
    assert contents(built) == before, "the old one stays until the new one is complete"
    make(photos, built, force=True, skip_corrupt=True)
    assert _manifest(built).count == 17
    (built / "mine").write_text("mine")
    with pytest.raises(UserError, match="holds 'mine', which is no part of built data"):
        make(photos, built, force=True)
    with pytest.raises(UserError, match="holds 'a', which is no part of built data"):
        make(photos, photos, force=True)
    (photos.parent / "empty").mkdir()
    make(photos, photos.parent / "empty", skip_corrupt=True)


def test_the_disk_is_looked_at_first_and_a_full_one_is_told(
    photos: Path, built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 6 * 10**7))  # type: ignore[attr-defined]
        with pytest.raises(UserError, match=r"18 images of 32² need 64 MiB in .*, 57 MiB are free"):
            make(photos, tmp_path / "other")
    assert not list(tmp_path.glob(".*"))
    with runs.full_disk(20_000), pytest.raises(UserError, match=r"cannot write .*: File too large"):
        make(photos, tmp_path / "other")
    make(photos, tmp_path / "other")
    assert contents(tmp_path / "other") == contents(built)


@pytest.mark.parametrize("name", [b"caf\xe9", "バラ".encode(), b"new\nline", b"'quote\"", b"-rf", b"a b"])
def test_any_name_will_do(tmp_path: Path, rng: np.random.Generator, name: bytes) -> None:
    photos = builds.write_photos(tmp_path / "photos", rng, {os.fsdecode(name): 2, "other": 1})
    make(photos, tmp_path / "built")
    assert BuiltClasses(tmp_path / "built", 32).class_names == tuple(sorted([os.fsdecode(name), "other"]))
    assert damage(tmp_path / "built") == []


def test_one_build_at_a_time(photos: Path, tmp_path: Path) -> None:
    work = tmp_path / ".built.building"
    work.mkdir()
    with locked(work, "data build"), pytest.raises(UserError, match="is in use by another pyeqgan data build"):
        make(photos, tmp_path / "built")
    assert work.exists()
    make(photos, tmp_path / "built")


@pytest.mark.parametrize("cut", ["pixel", "header", "journal", "manifest", "missing"])
def test_damage_is_found_and_its_image_named(built: Path, cut: str) -> None:
    images, journal, manifest = (built / name for name in ("images.npy", "sources.jsonl", "pyeqgan.json"))
    if cut == "manifest":
        manifest.write_text(manifest.read_text().replace('"a"', '"A"'))
        for read in (damage, lambda path: open_data(path, image_size=32)):
            with pytest.raises(UserError, match="is damaged: its checksum differs"):
                read(built)
        return
    if cut in ("pixel", "header"):
        data = bytearray(images.read_bytes())
        data[128 + 5 * 3072 + 77 if cut == "pixel" else 20] ^= 1
        images.write_bytes(data)
    elif cut == "journal":
        journal.write_bytes(journal.read_bytes()[:-1])
    else:
        images.unlink()
    found = damage(built)
    expected = {
        "pixel": ["images.npy: its checksum", "images.npy: the image of 'b/2.png', class 'b', is not what it was"],
        "header": ["images.npy: its checksum differs"],
        "journal": ["sources.jsonl: expected"],
        "missing": ["images.npy: No such file"],
    }[cut]
    assert len(found) == len(expected) and all(map(str.startswith, found, expected))
    if cut in ("header", "missing"):
        with pytest.raises(UserError, match=r"images\.npy"):
            open_data(built, image_size=32)


def test_a_manifest_of_a_later_format_or_of_something_else_is_refused(built: Path) -> None:
    for text, message in (
        ("{}", "no manifest of pyeqgan data build"),
        ("[", "no manifest"),
        ('{"sha256": 1}', "no man"),
    ):
        (built / "pyeqgan.json").write_text(text)
        with pytest.raises(UserError, match=message):
            open_data(built, image_size=32)
