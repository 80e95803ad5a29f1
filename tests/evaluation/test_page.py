"""The page of an evaluation."""

from __future__ import annotations

import base64
import dataclasses
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from pyeqgan.data import Split
from pyeqgan.errors import UserError
from pyeqgan.evaluation import EvaluationResult, FeatureConfig, Protocol, evaluate_generator, write_page
from pyeqgan.evaluation.generators import copy_reference


@pytest.fixture(scope="module")
def evaluation(split: Split, tmp_path_factory: pytest.TempPathFactory) -> tuple[EvaluationResult, Path]:
    folder, quick = tmp_path_factory.mktemp("evaluation"), FeatureConfig(steps=3, batch_size=8)
    protocol = Protocol(2, fakes_per_class=4, feature_training=quick)
    found = evaluate_generator(copy_reference, split, protocol, output=folder)
    return found, folder


@pytest.fixture
def result(evaluation: tuple[EvaluationResult, Path], tmp_path: Path) -> EvaluationResult:
    found, folder = evaluation
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    return found


class Balanced(HTMLParser):
    """Checks that every element that must be closed is, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_it_is_whole_and_holds_everything(result: EvaluationResult, tmp_path: Path) -> None:
    Image.new("RGB", (5, 5), "red").save(tmp_path / "losses.png")
    page = write_page(tmp_path, result, title="<Flowers>", pictures={"Losses & more": tmp_path / "losses.png"})
    assert page == tmp_path / "index.html"
    html = page.read_text(encoding="utf-8")
    parser = Balanced()
    parser.feed(html)
    assert parser.open == []
    assert "&lt;Flowers&gt;" in html and "Losses &amp; more" in html
    sources = re.findall(r'src="([^"]*)"', html)
    pictures = [tmp_path / name for name in ("samples.png", "metrics.png", "losses.png")]
    assert [base64.b64decode(s.removeprefix("data:image/png;base64,")) for s in sources] == [
        p.read_bytes() for p in pictures
    ]
    assert not re.search(r"(?:src|href)=\"(?!data:)", html)  # nothing is fetched from anywhere
    for title in ("copy a reference", "pixel mean", "real, held out", "Fréchet distance", "Distinct images"):
        assert title in html
    assert "not comparable with" in html
    frechet = result.scores["copy"].estimates["frechet"]
    assert frechet is not None and f"{frechet.value:.3g} <small>[" in html


def test_numbers_that_do_not_exist_are_dashes(result: EvaluationResult, tmp_path: Path) -> None:
    copy = dataclasses.replace(result.scores["copy"], estimates={**result.scores["copy"].estimates, "frechet": None})
    without = dataclasses.replace(result, scores={**result.scores, "copy": copy})
    assert '<td class="number">–</td>' in write_page(tmp_path, without).read_text(encoding="utf-8")


def test_a_chart_that_was_not_drawn_is_left_out(result: EvaluationResult, tmp_path: Path) -> None:
    (tmp_path / "metrics.png").unlink()
    assert write_page(tmp_path, result).read_text(encoding="utf-8").count("<img") == 1


def test_a_missing_picture_is_told(result: EvaluationResult, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read .*nowhere\.png: No such file"):
        write_page(tmp_path, result, pictures={"x": tmp_path / "nowhere.png"})
    assert not (tmp_path / "index.html").exists()
