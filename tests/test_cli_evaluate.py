import json
import shutil

import pytest
import runs

from pyeqgan import cli


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return runs.write_photos(tmp_path_factory.mktemp("data") / "photos", classes=5, images=8)


@pytest.fixture(scope="module")
def trained(photos, tmp_path_factory):
    path = tmp_path_factory.mktemp("trained") / "run"
    assert runs.run(photos, path, steps=1)[0] == 0
    return path


@pytest.fixture
def evaluate(trained, capsys):
    def evaluate(output, *more):
        arguments = ["--checkpoint", trained, "--output", output, "--fakes-per-class", 4, "--feature-steps", 2]
        status = cli.main(["evaluate", *map(str, [*arguments, "--references-per-class", 3, *more])])
        told = capsys.readouterr()
        return status, told.out, told.err

    return evaluate


def test_numbers_and_pictures_of_the_unseen_classes(evaluate, trained, tmp_path):
    status, out, err = evaluate(tmp_path / "evaluation")
    assert (status, err) == (0, "")
    assert f"evaluating {trained / 'checkpoints' / 'step_00000001'}" in out
    page = tmp_path / "evaluation" / "index.html"
    assert out.splitlines()[-1] == f"numbers and pictures: {page}"
    assert "data:image/png;base64," in page.read_text(encoding="utf-8")
    result = json.loads((tmp_path / "evaluation" / "metrics.json").read_text())
    assert result["classes"].keys() == {"d", "e"}
    assert result["settings"]["fakes_per_class"] == 4 and result["settings"]["shots"] == 2
    assert result["scores"].keys() == {"generator", "copy", "mean", "real"}
    assert (tmp_path / "evaluation" / "samples.png").exists()

    before = (tmp_path / "evaluation" / "metrics.json").read_bytes()
    status, _, err = evaluate(tmp_path / "evaluation", "--seed", 1)
    assert status == 2 and "already holds metrics.json: --force" in err and err.count("\n") == 1
    assert (tmp_path / "evaluation" / "metrics.json").read_bytes() == before
    assert evaluate(tmp_path / "evaluation", "--force")[0] == 0


def test_other_data_are_split_anew(evaluate, tmp_path):
    other = runs.write_photos(tmp_path / "other", classes=4, images=8)
    assert evaluate(tmp_path / "evaluation", "--data", other)[0] == 0
    assert json.loads((tmp_path / "evaluation" / "metrics.json").read_text())["classes"].keys() == {"d"}


def test_classes_that_were_trained_on_are_refused(evaluate, photos, tmp_path):
    for data in ([], ["--data", photos]):
        status, _, err = evaluate(tmp_path / "evaluation", "--seen-classes", 2, *data)
        assert status == 2
        assert err == "pyeqgan: 1 classes to evaluate on were trained on, 'c' among them\n"


def test_without_the_data_there_is_one_line(evaluate, photos, tmp_path):
    away = photos.rename(photos.with_name("away"))
    try:
        status, _, err = evaluate(tmp_path / "evaluation")
    finally:
        away.rename(photos)
    assert status == 2 and "no folder" in err and err.count("\n") == 1
    small = shutil.copytree(photos, tmp_path / "small")
    for image in (small / "e").glob("[3-9].png"):
        image.unlink()
    status, _, err = evaluate(tmp_path / "evaluation", "--data", small)
    assert status == 2 and "unseen class 'e' has 3 images" in err and err.count("\n") == 1
