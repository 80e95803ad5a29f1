"""What the page does with files and sliders, without the page."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest
import runs
import torch
from PIL import Image

from pyeqgan.app import reading
from pyeqgan.app.making import make_images, zipped
from pyeqgan.app.reading import read_upload
from pyeqgan.data.folders import read_image
from pyeqgan.errors import UserError
from pyeqgan.models import EqGANConfig, EqGANGenerator


@pytest.fixture(scope="module")
def generator():
    torch.manual_seed(0)
    return EqGANGenerator(EqGANConfig(2, image_size=32, width=0.125)).eval()


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / f"{index}.png" for index in range(3)]
    for path in paths:
        runs.picture().save(path)
    return paths


def test_a_seed_gives_the_same_images_and_a_share_of_nothing_is_no_image(generator, files):
    one = make_images(generator, files, [1, 1, 1], 5, 3)
    assert one.shape == (5, 32, 32, 3) and one.dtype == np.uint8
    assert (make_images(generator, files, [1, 1, 1], 5, 3) == one).all()
    assert (make_images(generator, files, [1, 1, 1], 5, 4) != one).any()
    assert (make_images(generator, files, [1, 1, 0.2], 5, 3) != one).any()
    two = make_images(generator, [*files[:2], None], [1, 1, 1], 5, 3)
    assert (make_images(generator, files, [1, 1, 0], 5, 3) == two).all()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"weights": [0, 0, 0]}, "expected at least one image with a share above 0"),
        ({"paths": [None] * 3}, "expected at least one image with a share above 0"),
        ({"count": 65}, "how many: 65, expected 1 to 64"),
        ({"seed": -1}, "seed: -1, expected 0 to 2147483647"),
    ],
)
def test_what_cannot_be_made_is_told(generator, files, changed, message):
    with pytest.raises(UserError, match=message):
        make_images(generator, **{"paths": files, "weights": [1, 1, 1], "count": 2, "seed": 0, **changed})


def test_the_archive_holds_every_image_as_it_is(generator, files):
    images = make_images(generator, files, [1, 1, 1], 3, 0)
    with zipfile.ZipFile(io.BytesIO(zipped(images))) as archive:
        assert archive.namelist() == [f"generated_{index:03d}.png" for index in range(3)]
        for name, image in zip(archive.namelist(), images, strict=True):
            assert (np.asarray(Image.open(archive.open(name))) == image).all()


def test_uploads_are_read_as_the_images_of_a_folder_are(files):
    assert (read_upload(files[0], 32) == read_image(files[0], 32)).all()


def test_other_uploads_are_refused_by_name_alone(files, tmp_path, monkeypatch):
    text, short = tmp_path / "text.png", tmp_path / "short.png"
    text.write_text("no image")
    short.write_bytes(files[0].read_bytes()[:500])
    for path, message in ((text, "text.png is no image"), (short, "short.png is damaged: ")):
        with pytest.raises(UserError, match=message) as told:
            read_upload(path, 32)
        assert str(tmp_path) not in str(told.value) and "\n" not in str(told.value)
    monkeypatch.setattr(reading, "MOST_PIXELS", 4000)
    with pytest.raises(UserError, match=r"0\.png has 64×64 pixels, expected at most"):
        read_upload(files[0], 32)
    monkeypatch.setattr(reading, "MOST_BYTES", 1000)
    with pytest.raises(UserError, match=r"0\.png has 0 MiB, expected at most"):
        read_upload(files[0], 32)
