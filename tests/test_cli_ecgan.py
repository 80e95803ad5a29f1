"""An ECGAN on the command line: trained, painting label maps, evaluated, reported."""

import json
import shutil

import numpy as np
import pytest
import runs
from PIL import Image

from pyeqgan import cli
from pyeqgan.data.layouts import coloured
from pyeqgan.options import ECGANOptions, EqGANOptions

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def layouts(tmp_path_factory):
    return runs.write_layouts(tmp_path_factory.mktemp("layouts"))


@pytest.fixture(scope="module")
def trained(layouts, tmp_path_factory):
    path = tmp_path_factory.mktemp("trained") / "run"
    assert runs.trained(runs.ecgan_options(layouts, path, steps=2))[0] == 0
    return path


@pytest.fixture(scope="module")
def with_instances(tmp_path_factory):
    path = tmp_path_factory.mktemp("instances") / "run"
    assert runs.trained(runs.ecgan_options("embedded-layouts", path, steps=1, instance_edges=True))[0] == 0
    return path


@pytest.fixture
def pyeqgan(capsys):
    def pyeqgan(*arguments):
        status = cli.main([str(argument) for argument in arguments])
        told = capsys.readouterr()
        return status, told.out, told.err

    return pyeqgan


def refused(answer):
    """The one line that a refusal is told on."""
    status, out, err = answer
    assert status == 2 and err.startswith("pyeqgan: ") and err.count("\n") == 1, (status, out, err)
    return err


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB"))


def test_the_model_chooses_the_options(capsys, tmp_path):
    assert type(cli.parse(["train", "--output", str(tmp_path)])) is EqGANOptions
    for named in (["--model", "ecgan"], ["--model=ecgan"]):
        options = cli.parse(["train", "--output", str(tmp_path), *named, "--width", "0.5"])
        assert options == ECGANOptions(tmp_path, width=0.5)
    with pytest.raises(SystemExit):
        cli.parse(["train", "--model", "ecgan", "--help"])
    told = capsys.readouterr().out
    assert "--contrastive-weight" in told and "--shots" not in told and "pyeqgan train --model ecgan" in told
    with pytest.raises(SystemExit):
        cli.parse(["train", "--help"])
    told = capsys.readouterr().out
    assert "--shots" in told and "--contrastive-weight" not in told and "--model ecgan" in told


def test_options_of_the_other_model_and_unknown_models_are_refused(pyeqgan, tmp_path):
    assert "--shots" in refused(pyeqgan("train", "--model", "ecgan", "--output", tmp_path / "run", "--shots", 3))
    assert "--contrast" in refused(pyeqgan("train", "--output", tmp_path / "run", "--contrast", "none"))
    assert "'biggan'" in refused(pyeqgan("train", "--model", "biggan", "--output", tmp_path / "run"))


def test_a_run_is_resumed_as_what_it_is(pyeqgan, trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run")
    status, out, _ = pyeqgan("train", "--output", run, "--resume", "--steps", 3)
    assert status == 0 and out.splitlines()[-1] == f"finished: 3 steps in {run}"
    assert "--model eqgan" in refused(pyeqgan("train", "--output", run, "--resume", "--model", "eqgan"))
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("model: ecgan", "model: biggan"))
    assert "model: expected eqgan or ecgan, got 'biggan'" in refused(pyeqgan("train", "--output", run, "--resume"))


def test_layouts_are_painted_as_they_were_named(pyeqgan, layouts, trained, tmp_path):
    folder, output = layouts / "test" / "labels", tmp_path / "painted"
    arguments = ("generate", "--checkpoint", trained, "--output", output, "--layouts")
    status, out, err = pyeqgan(*arguments, folder)
    told = ["reading layouts", "painting", f"images and edges of 2 layouts and grid.png in {output}"]
    assert (status, err, out.splitlines()) == (0, "", told)
    names = ["grid.png", "test_0.png", "test_0_edges.png", "test_1.png", "test_1_edges.png"]
    assert sorted(path.name for path in output.iterdir()) == names
    before = {name: pixels(output / name) for name in names}
    assert before["test_0.png"].shape == (16, 16, 3)
    grid = before["grid.png"]
    assert grid.shape == (4 * 18 + 2, 2 * 18 + 2, 3)
    labels = np.asarray(Image.open(folder / "test_1.png")).astype(np.int64)
    labels[labels == 255] = -1
    nearest = np.floor((np.arange(16) + 0.5) * 1.5).astype(int)
    assert np.array_equal(grid[2:18, 20:36], coloured(labels[nearest][:, nearest])), "read as in training"
    assert np.array_equal(grid[56:72, 2:18], before["test_0.png"])

    assert f"{output} already holds" in refused(pyeqgan(*arguments, folder))
    one_by_one = tmp_path / "one by one"
    assert (
        pyeqgan("generate", "--checkpoint", trained, "--output", one_by_one, "--batch-size", 1, "--layouts", folder)[0]
        == 0
    )
    for name, picture in before.items():
        assert np.abs(pixels(one_by_one / name).astype(int) - picture).max() <= 1, name
    (output / "mine.png").write_bytes(b"mine")
    assert pyeqgan(*arguments, folder / "test_0.png", "--force")[0] == 0
    assert (output / "mine.png").read_bytes() == b"mine"
    assert np.abs(pixels(output / "test_0.png").astype(int) - before["test_0.png"]).max() <= 1, "alone as among others"


def test_painting_goes_on_with_what_is_missing_and_keeps_what_is_there(pyeqgan, layouts, trained, tmp_path):
    folder, output = shutil.copytree(layouts / "test" / "labels", tmp_path / "labels"), tmp_path / "painted"
    arguments = ("generate", "--checkpoint", trained, "--output", output, "--layouts", folder)
    assert pyeqgan(*arguments)[0] == 0
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in output.iterdir()}
    for missing in ("grid.png", "test_1.png"):  # as a call leaves it that was stopped at its last picture
        (output / missing).unlink()
    told = refused(pyeqgan(*arguments))
    assert "--resume makes the missing ones, --force all anew" in told
    status, out, _ = pyeqgan(*arguments, "--resume")
    expected = f"images and edges of 2 layouts (1 of them were there) and grid.png in {output}"
    assert status == 0 and out.splitlines()[-1] == expected
    after = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in output.iterdir()}
    assert {name: data for name, (data, _) in after.items()} == {name: data for name, (data, _) in before.items()}
    kept = [name for name, (_, written) in after.items() if written == before[name][1]]
    assert sorted(kept) == ["test_0.png", "test_0_edges.png"]

    shutil.copy(folder / "test_1.png", folder / "test_0.png")  # another layout of that name
    assert "test_0.png was not made from this layout by this generator" in refused(pyeqgan(*arguments, "--resume"))
    (output / "test_0.png").write_bytes(b"no picture")
    assert "test_0.png" in refused(pyeqgan(*arguments, "--resume"))
    assert "expected one of them, got both" in refused(pyeqgan(*arguments, "--resume", "--force"))
    assert pyeqgan(*arguments, "--force")[0] == 0


def test_a_generator_without_edges_paints_images_alone(pyeqgan, layouts, tmp_path):
    run, output = tmp_path / "run", tmp_path / "painted"
    assert runs.trained(runs.ecgan_options(layouts, run, steps=1, modules="image"))[0] == 0
    pictures = layouts / "test" / "labels"
    arguments = ("generate", "--checkpoint", run, "--output", output, "--layouts", pictures)
    assert pyeqgan(*arguments)[1].splitlines()[-1] == f"images of 2 layouts and grid.png in {output}"
    assert sorted(path.name for path in output.iterdir()) == ["grid.png", "test_0.png", "test_1.png"]
    (output / "test_0.png").unlink()
    status, out, _ = pyeqgan(*arguments, "--resume")
    assert status == 0 and out.splitlines()[-1].startswith("images of 2 layouts (1 of them were there)")


def test_what_cannot_be_painted(pyeqgan, layouts, trained, with_instances, tmp_path):
    labels = layouts / "test" / "labels"
    output = tmp_path / "painted"

    def generate(*arguments, checkpoint=trained):
        return refused(pyeqgan("generate", "--checkpoint", checkpoint, "--output", output, *arguments))

    assert "no label maps in" in generate("--layouts", layouts)
    assert "expected --images (of an EqGAN) or --layouts (of an ECGAN), got neither" in generate()
    assert "got both" in generate("--layouts", labels, "--images", labels / "test_0.png")
    assert "--images does not apply" in generate("--images", labels / "test_0.png")
    assert "--count does not apply" in generate("--layouts", labels, "--count", 3)
    assert "would be called test_0.png" in generate("--layouts", labels, labels / "test_0.png")
    assert "without the borders" in generate("--layouts", labels, "--instances", labels)
    assert "expected a map for each of the 2 layouts, got 0" in generate("--layouts", labels, checkpoint=with_instances)
    before = {path.name: path.read_bytes() for path in labels.iterdir()}
    for more in ([], ["--force"]):
        told = refused(pyeqgan("generate", "--checkpoint", trained, "--output", labels, "--layouts", labels, *more))
        assert "is a label map that is read" in told
    assert {path.name: path.read_bytes() for path in labels.iterdir()} == before
    wrong = tmp_path / "wrong.png"
    Image.fromarray(np.full((16, 16), 7, np.uint8)).save(wrong)
    assert "label 7 in" in generate("--layouts", wrong)
    wrong.write_bytes(b"no picture")
    assert "wrong.png" in generate("--layouts", wrong)
    assert not output.exists()


def test_instances_are_taken_beside_their_layouts(pyeqgan, layouts, with_instances, tmp_path):
    layout, instances = tmp_path / "a.png", tmp_path / "b.png"
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(layout)
    pictures = []
    for value in (0, 3):
        things = np.zeros((16, 16), np.uint8)
        things[4:12, 4:12] = value
        Image.fromarray(things).save(instances)
        output = tmp_path / str(value)
        arguments = ("--layouts", layout, "--instances", instances, "--output", output)
        assert pyeqgan("generate", "--checkpoint", with_instances, *arguments)[0] == 0
        pictures.append(pixels(output / "a.png"))
    assert not np.array_equal(*pictures), "the borders are seen"


def test_an_evaluation_and_its_page_and_the_run_on_one_page(pyeqgan, trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run")
    arguments = ("evaluate", "--checkpoint", run, "--output", run / "evaluation", "--feature-steps", 2)
    status, out, err = pyeqgan(*arguments)
    assert status == 0, err
    assert "mean IoU" in out and out.splitlines()[-1].endswith("index.html")
    numbers = json.loads((run / "evaluation" / "metrics.json").read_text())
    assert numbers["settings"]["subject"]["step"] == 2 and numbers["images"] == 2
    assert "already" in refused(pyeqgan(*arguments))

    assert pyeqgan("report", run)[0] == 0
    page = (run / "report.html").read_text()
    assert "2 of 2 steps on 3 layouts of 3 classes" in page and "Evaluation of step 2" in page
    assert "Class mean colours" in page or "class mean" in page
    assert "--model ecgan" in page and "Nearest training images" not in page


def test_evaluations_of_the_other_model_are_refused(pyeqgan, trained, tmp_path):
    def evaluate(*arguments):
        return refused(pyeqgan("evaluate", "--checkpoint", trained, "--output", tmp_path / "evaluation", *arguments))

    for option in (("--downstream",), ("--fakes-per-class", 3), ("--seen-classes", 1)):
        assert f"{option[0]} does not apply to a checkpoint of --model ecgan" in evaluate(*option)
    other = runs.write_layouts(tmp_path / "other", classes=2)
    assert "have other classes than those trained on: class 0, class 1, class 2" in evaluate("--data", other)
    assert not (tmp_path / "evaluation").exists()


def test_what_only_knows_images_of_a_class_says_so(pyeqgan, trained, tmp_path):
    assert "expects a checkpoint of --model eqgan" in refused(pyeqgan("app", "--checkpoint", trained))
    told = refused(
        pyeqgan("export", "--checkpoint", trained, "--output", tmp_path / "new", "--format", "torch", "--shots", 3)
    )
    assert "--shots does not apply to a checkpoint of --model ecgan" in told and not (tmp_path / "new").exists()
