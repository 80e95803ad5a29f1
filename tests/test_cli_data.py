"""What a new user does: a folder of images, built, inspected, trained on, generated from, evaluated."""

import json

import builds
import numpy as np
import pytest
import runs
from PIL import Image

from pyeqgan import cli
from pyeqgan.data import BuiltClasses


@pytest.fixture
def pyeqgan(capsys):
    def pyeqgan(*arguments):
        status = cli.main([str(argument) for argument in arguments])
        told = capsys.readouterr()
        return status, told.out, told.err

    return pyeqgan


@pytest.mark.usefixtures("one_thread")
def test_from_a_folder_of_images_to_an_evaluation(pyeqgan, tmp_path):
    photos, built, run = (
        runs.write_photos(tmp_path / "photos", classes=5, images=8),
        tmp_path / "built",
        tmp_path / "run",
    )
    (tmp_path / "seen.txt").write_text("b\nd\n")
    status, out, err = pyeqgan(
        "data", "build", photos, "--output", built, "--image-size", 32, "--seen-classes", tmp_path / "seen.txt"
    )
    assert (status, err) == (0, "") and out.endswith(f"40 images of 32² in 2 seen and 3 unseen classes: {built}\n")
    assert pyeqgan("data", "inspect", built, "--output", tmp_path / "inspected")[0] == 0

    assert pyeqgan("train", "--data", built, "--output", run, "--steps", 1, *runs.FLAGS, "--device", "cpu")[0] == 0
    manifest = json.loads((run / "checkpoints" / "step_00000001" / "manifest.json").read_text())
    assert manifest["about"]["classes"] == ["b", "d"], "the split is that of the built data"
    status, out, _ = pyeqgan("train", "--output", run, "--resume", "--steps", 2)
    assert status == 0 and "finished: 2 steps" in out

    images = [photos / "a" / f"{index}.png" for index in range(3)]
    assert (
        pyeqgan("generate", "--checkpoint", run, "--images", *images, "--count", 2, "--output", tmp_path / "new")[0]
        == 0
    )
    assert np.asarray(Image.open(tmp_path / "new" / "generated_001.png")).shape == (32, 32, 3)

    small = ["--fakes-per-class", 4, "--feature-steps", 2, "--references-per-class", 3]
    assert pyeqgan("evaluate", "--checkpoint", run, "--output", tmp_path / "evaluation", *small)[0] == 0
    metrics = json.loads((tmp_path / "evaluation" / "metrics.json").read_text())
    assert metrics["classes"].keys() == {"a", "c", "e"}
    assert pyeqgan("data", "build", photos, "--output", built)[0] == 2


def test_every_option_of_build_reaches_it(pyeqgan, tmp_path, rng):
    seen = builds.write_photos(tmp_path / "seen", rng, {"a": 3, "b": 2, "few": 1})
    unseen = builds.pack(builds.write_photos(tmp_path / "unseen", rng, {"c": 4}), tmp_path / "unseen.zip")
    (seen / "a" / "0.png").write_bytes(b"no picture")
    flags = ["--image-size", 48, "--unseen", unseen, "--min-images", 2, "--images-per-class", 2, "--workers", 1]
    status, _, err = pyeqgan("data", "build", seen, "--output", tmp_path / "built", *flags, "--format", "lofgan")
    assert (status, err) == (2, "pyeqgan: cannot read image 'a/0.png': not an image; --skip-corrupt leaves it out\n")
    status, out, _ = pyeqgan(
        "data", "build", seen, "--output", tmp_path / "built", *flags, "--format", "lofgan", "--skip-corrupt"
    )
    assert status == 0 and "left out: 2" in out
    assert np.load(tmp_path / "built" / "images.npy").shape == (3, 2, 48, 48, 3)
    assert list(BuiltClasses(tmp_path / "built", 48).class_names) == ["a", "b", "c"]
    (tmp_path / "boxes").write_text("a/1.png 0 0 20 20\n")
    boxed = ["--boxes", tmp_path / "boxes", "--output", tmp_path / "built", "--force", "--seen-classes", 1]
    assert pyeqgan("data", "build", seen, *boxed)[0] == 0
    assert BuiltClasses(tmp_path / "built", 128).count(0) == 1


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("build", "SOURCE"),
        ("build NOWHERE", "--output"),
        ("build NOWHERE --output OUT", "no file or folder"),
        ("build FILE --output OUT", "is no folder, zip or tar"),
        ("build NOWHERE --output OUT --workers 0", "--workers 0, expected at least 1"),
        ("build NOWHERE --output OUT --min-images 0", "--min-images 0, expected at least 1"),
        ("build NOWHERE --output OUT --images-per-class 0", "--images-per-class 0, expected at least 1"),
        ("build NOWHERE --output OUT --image-size 50", "image size 50, expected a multiple of 16"),
        ("build NOWHERE --output OUT --format npz", "invalid choice 'npz' for argument '--format'"),
        ("build NOWHERE --output OUT --unseen FILE --seen-classes 3", "expected one of them"),
        ("build NOWHERE --output OUT --unseen FILE --boxes FILE", "expected no --unseen beside them"),
        ("build NOWHERE --output FILE", "it is no folder"),
        ("build NOWHERE --output FILE/out", "cannot write"),
        ("build NOWHERE --output /proc/out", "cannot write"),
        ("weigh NOWHERE", "weigh"),
    ],
)
def test_bad_input_is_answered_on_one_line(pyeqgan, tmp_path, arguments, expected):
    (tmp_path / "FILE").write_text("mine")
    words = [
        str(tmp_path / word) if word.split("/")[0] in ("NOWHERE", "OUT", "FILE") else word for word in arguments.split()
    ]
    status, out, err = pyeqgan("data", *words)
    assert (status, out) == (2, "")
    assert err.startswith("pyeqgan: ") and err.count("\n") == 1 and expected in err
    assert [path.name for path in tmp_path.iterdir()] == ["FILE"] and (tmp_path / "FILE").read_text() == "mine"
