"""The page of a run, through the command line."""

from __future__ import annotations

import re
import shutil

import pytest
import runs
from html_page import assert_whole

from pyeqgan import cli
from pyeqgan.report.through_time import MOST


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return runs.write_photos(tmp_path_factory.mktemp("data") / "photos", classes=5, images=7)


@pytest.fixture(scope="module")
def trained(photos, tmp_path_factory):
    path = tmp_path_factory.mktemp("trained") / "run"
    assert runs.run(photos, path, steps=3, sample_every=1)[0] == 0
    return path


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run & more")


def report(capsys, *arguments):
    status = cli.main(["report", *map(str, arguments)])
    told = capsys.readouterr()
    return status, told.out, told.err


def test_everything_of_the_run_is_on_the_page(capsys, run):
    status, out, err = report(capsys, run)
    assert (status, err) == (0, "") and out.endswith(f"the run on one page: {run / 'report.html'}\n")
    html = (run / "report.html").read_text(encoding="utf-8")
    assert_whole(html)
    assert "<h1>Run run &amp; more</h1>" in html and "3 of 3 steps on 3 classes" in html
    assert re.findall(r"<figcaption>step (\d+):", html) == ["1", "2", "3"]
    assert "Not evaluated yet" in html
    assert html.count("<img") == 3 + 1 + 1  # grids, nearest images, curves
    assert re.search(r"nearest to generated images</th><td class=\"number\">0\.\d{3}</td>", html)
    assert "<th>generator/reconstruction</th>" in html and "<th>--penalty-every</th><td>1</td>" in html
    assert "--steps 3" in html and "--no-flip" not in html and "bilateral_propagation" in html


def evaluate(capsys, run, output, **settings):
    settings = {"fakes-per-class": 4, "feature-steps": 2, "references-per-class": 3, **settings}
    flags = [str(word) for name, value in settings.items() for word in (f"--{name}", value)]
    assert cli.main(["evaluate", "--checkpoint", str(run), "--output", str(output), *flags]) == 0
    capsys.readouterr()


def test_an_evaluation_is_part_of_it_if_it_is_of_this_run(capsys, run, trained, photos, tmp_path):
    evaluate(capsys, run, run / "evaluation", shots=2)
    assert report(capsys, run)[0] == 0
    html = (run / "report.html").read_text(encoding="utf-8")
    assert_whole(html)
    assert "<h2>Evaluation of step 3</h2>" in html and "Class by class" in html and "Distinct images" in html

    metrics = run / "evaluation" / "metrics.json"
    metrics.write_text(metrics.read_text().replace('"step": 3', '"step": 2'))
    assert report(capsys, run, "--force")[0] == 0
    assert "<h2>Evaluation of step 2, +1 steps since then</h2>" in (run / "report.html").read_text(encoding="utf-8")

    other = tmp_path / "other"
    assert runs.run(photos, other, steps=3, seed=1)[0] == 0
    status, _, err = report(capsys, other, "--evaluation", run / "evaluation")
    assert status == 2 and "is not of this run" in err and err.count("\n") == 1
    status, _, err = report(capsys, other, "--evaluation", trained)
    assert status == 2 and "no evaluation in" in err and err.count("\n") == 1
    metrics.write_text(metrics.read_text().replace('"step": 2', '"step": 3'))
    status, _, err = report(capsys, other, "--evaluation", run / "evaluation")
    assert status == 2 and "is not of this run" in err and err.count("\n") == 1
    metrics.write_text(metrics.read_text().replace('"run":', '"model":'))  # what somebody else has evaluated
    status, _, err = report(capsys, run, "--force")
    assert status == 2 and "is not of this run" in err and err.count("\n") == 1
    for damage in ("{", "[]", '{"scores": {}}'):
        metrics.write_text(damage)
        status, _, err = report(capsys, run, "--force")
        assert status == 2 and "is damaged, or of another version" in err and err.count("\n") == 1


def test_a_page_is_replaced_only_with_force(capsys, run, tmp_path):
    page = tmp_path / "page.html"
    page.write_text("mine")
    status, _, err = report(capsys, run, "--output", page)
    assert (status, err) == (2, f"pyeqgan: {page} exists: --force replaces it\n") and page.read_text() == "mine"
    assert report(capsys, run, "--output", page, "--force")[0] == 0 and "<h1>" in page.read_text()


def test_without_the_data_it_says_how_to_do_without(capsys, run, photos, tmp_path):
    away = photos.rename(photos.with_name("away"))
    try:
        status, _, err = report(capsys, run)
        assert status == 2 and "no folder" in err and "--samples 0" in err and err.count("\n") == 1
        assert not (run / "report.html").exists()
        assert report(capsys, run, "--data", away, "--output", tmp_path / "moved.html")[0] == 0
        assert report(capsys, run, "--samples", 0)[0] == 0
    finally:
        away.rename(photos)
    assert "Nearest training" not in (run / "report.html").read_text(encoding="utf-8")


def test_what_is_not_there_yet_is_told(capsys, run, tmp_path):
    shutil.rmtree(run / "samples")
    (run / "metrics.jsonl").unlink()
    assert report(capsys, run)[0] == 0
    html = (run / "report.html").read_text(encoding="utf-8")
    assert "There is no picture yet" in html and "no line of metrics yet" in html
    status, _, err = report(capsys, tmp_path)
    assert status == 2 and "no run in" in err and err.count("\n") == 1
    shutil.rmtree(run / "checkpoints")
    status, _, err = report(capsys, run, "--force")
    assert status == 2 and "no checkpoint in" in err and err.count("\n") == 1


def test_of_many_grids_a_few_are_shown_the_ends_among_them(capsys, run):
    for step in range(4, 40):
        shutil.copy(run / "samples" / "step_00000001.png", run / "samples" / f"step_{step:08d}.png")
    assert report(capsys, run, "--samples", 0)[0] == 0
    steps = re.findall(r"<figcaption>step (\d+):", (run / "report.html").read_text(encoding="utf-8"))
    assert len(set(steps)) == len(steps) == MOST and (steps[0], steps[-1]) == ("1", "39")


def test_a_damaged_picture_is_named(capsys, run):
    (run / "samples" / "step_00000002.png").write_bytes(b"\x89PNG")
    status, _, err = report(capsys, run)
    assert status == 2 and "step_00000002.png" in err and err.count("\n") == 1
