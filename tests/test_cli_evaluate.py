import json
import shutil

import pytest
import runs

from pyeqgan import cli
from pyeqgan.evaluation import DownstreamConfig
from pyeqgan.files import locked


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


def test_references_that_small_classes_lack_are_told(evaluate, tmp_path):
    assert "small classes" not in evaluate(tmp_path / "a")[1]
    out = evaluate(tmp_path / "b", "--references-per-class", 7)[1]
    assert "small classes leave as few as 4 references, not 7\n" in out


def test_two_at_once_are_one_too_many(evaluate, tmp_path):
    (tmp_path / "evaluation").mkdir()
    with locked(tmp_path / "evaluation", "evaluate"):
        status, _, err = evaluate(tmp_path / "evaluation")
    assert status == 2 and "is in use by another pyeqgan evaluate" in err and err.count("\n") == 1


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


def test_what_is_missing_for_published_numbers_is_one_line(evaluate, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("PYEQGAN_WEIGHTS", raising=False)
    weights = tmp_path / "weights"
    weights.mkdir()
    for options, name in (
        (["--features", "inception"], "pt_inception-2015-12-05-6726825d.pth"),
        (["--lpips", "vgg"], "vgg16-397923af.pth"),
        (["--lpips", "alex"], "alexnet-owt-7be5be79.pth"),
    ):
        status, _, err = evaluate(tmp_path / "new", "--weights", weights, *options)
        assert status == 2 and err.count("\n") == 1
        assert all(part in err for part in ("no weights of", name, str(weights), "nothing is downloaded", "https://"))
        (weights / name).write_bytes(b"something else")
        status, _, err = evaluate(tmp_path / "new", "--weights", weights, *options)
        assert status == 2 and err.count("\n") == 1 and f"{weights / name} is not the published file" in err
    status, _, err = evaluate(tmp_path / "new", "--compat", "lofgan")
    assert (status, err) == (
        2,
        "pyeqgan: compat lofgan: expected features inception and lpips vgg, got features self and lpips none\n",
    )
    assert not (tmp_path / "new").exists()


def test_downstream_and_repeats(evaluate, tmp_path, monkeypatch):
    quick = DownstreamConfig(generated_per_class=2, steps=2, batch_size=8)
    monkeypatch.setattr("pyeqgan.evaluation.downstream.DownstreamConfig", lambda: quick)
    status, _, err = evaluate(tmp_path / "evaluation", "--downstream", "--repeats", 2)
    assert (status, err) == (0, "")
    result = json.loads((tmp_path / "evaluation" / "metrics.json").read_text())
    assert result["downstream"]["repeats"] == 2 and len(result["draws"]["frechet"]["interval"]) == 2
    assert "A classifier of the unseen classes" in (tmp_path / "evaluation" / "index.html").read_text(encoding="utf-8")
    status, _, err = evaluate(tmp_path / "other", "--repeats", 0)
    assert (status, err) == (2, "pyeqgan: --repeats 0, expected at least 1\n")
