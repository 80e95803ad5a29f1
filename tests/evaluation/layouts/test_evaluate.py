"""A whole evaluation of painted layouts: who scores what, and what becomes of the folder."""

from __future__ import annotations

import csv
import dataclasses
import importlib
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from html_page import assert_whole
from PIL import Image
from torch import Tensor

from pyeqgan.data import to_tensor
from pyeqgan.data.layouts import LayoutSplit
from pyeqgan.errors import UserError
from pyeqgan.evaluation.layouts import (
    LayoutEvaluation,
    LayoutProtocol,
    Paint,
    SegmenterConfig,
    evaluate_layouts,
    read_layout_evaluation,
    write_page,
)
from pyeqgan.files import locked

PROTOCOL = LayoutProtocol(batch_size=5, segmenter_training=SegmenterConfig(steps=80, batch_size=8, learning_rate=1e-2))
FILES = {"metrics.json", "classes.csv", "samples.png", "metrics.png"}
SHARED = "segmenter_*.safetensors"


def value(result: LayoutEvaluation, painter: str, metric: str) -> float:
    estimate = result.scores[painter].estimates[metric]
    assert estimate is not None
    return estimate.value


@pytest.fixture(scope="module")
def perfect(split: LayoutSplit, painter: Callable, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("perfect")
    return evaluate_layouts(painter(split.test), split, PROTOCOL, output=folder, subject={"step": 7}), folder


@pytest.fixture
def evaluate(split: LayoutSplit, perfect: tuple[LayoutEvaluation, Path], tmp_path: Path) -> Callable:
    """Evaluate in a folder that has the segmenter already."""

    def evaluate(paint: Paint, protocol: LayoutProtocol = PROTOCOL, **more: object) -> LayoutEvaluation:
        for file in perfect[1].glob(SHARED):
            shutil.copy(file, tmp_path)
        return evaluate_layouts(paint, split, protocol, output=tmp_path, **more)  # type: ignore[arg-type]

    return evaluate


def test_the_real_image_scores_the_ceiling(perfect: tuple[LayoutEvaluation, Path]) -> None:
    result, _ = perfect
    assert result.images == 12
    for metric in ("miou", "accuracy", "own_edges", "real_edges"):
        assert value(result, "generator", metric) == value(result, "real", metric)
    assert value(result, "real", "miou") > 0.85
    assert value(result, "generator", "own_edges") == value(result, "generator", "real_edges") == 1
    assert value(result, "generator", "frechet") == pytest.approx(0, abs=1e-9)
    assert 1e-4 < value(result, "real", "frechet") < value(result, "painter", "frechet")
    # Classes of one mean colour: the painter has nothing that tells them apart.
    assert value(result, "painter", "miou") < 0.5
    for name, difference in result.generator_minus_painter.items():
        assert difference is not None and difference.interval is not None, name
        assert difference.value == pytest.approx(value(result, "generator", name) - value(result, "painter", name))
    assert "Better than class mean colours: Mean IoU, Edges, real image, Fréchet distance." in result.verdict()
    assert "Worse than" not in result.verdict() and "shows little" not in result.verdict()


def test_intervals_hold_the_numbers(perfect: tuple[LayoutEvaluation, Path]) -> None:
    result, _ = perfect
    for name, scores in result.scores.items():
        for metric, estimate in scores.estimates.items():
            if name == "painter" and metric.startswith(("own_edges", "real_edges_precision")):
                assert estimate is None  # its images are flat: no edges
                continue
            assert estimate is not None and estimate.interval is not None, (name, metric)
            low, high = estimate.interval
            assert low <= high and (metric == "frechet" or 0 <= low <= estimate.value + 0.05), metric
    low, high = result.scores["painter"].estimates["miou"].interval  # type: ignore[union-attr,misc]
    assert 0.01 < high - low < 0.5


def test_the_image_of_another_layout_fails(evaluate: Callable, painter: Callable, split: LayoutSplit) -> None:
    result = evaluate(painter(split.test, shift=1))
    assert value(result, "generator", "miou") < 0.6 * value(result, "real", "miou")
    assert value(result, "generator", "own_edges") == 1 > value(result, "generator", "real_edges")
    # The same images all together: what lies where does not show in the distance.
    assert value(result, "generator", "frechet") == pytest.approx(0, abs=1e-9)


def test_flat_colours_that_tell_the_classes_are_warned_of(perfect: tuple[LayoutEvaluation, Path]) -> None:
    result, _ = perfect
    easy = dataclasses.replace(result, scores={**result.scores, "painter": result.scores["real"]})
    assert "Flat colours are told apart nearly as well as real images" in easy.verdict()


def test_what_is_written(perfect: tuple[LayoutEvaluation, Path], tmp_path: Path) -> None:
    result, folder = perfect
    assert {path.name for path in folder.iterdir() if not path.match(SHARED)} == FILES
    assert read_layout_evaluation(folder) == result
    told = json.loads((folder / "metrics.json").read_text())
    assert told["settings"]["subject"] == {"step": 7} and told["settings"]["image_size"] == [32, 32]
    head, *rows = csv.reader((folder / "classes.csv").open())
    assert [row[0] for row in rows] == ["upright", "level", "flat"] and head[1] == "share of pixels"
    assert sum(float(row[1]) for row in rows) == pytest.approx(1, abs=1e-3)
    assert head[2:] == [f"IoU, {x}" for x in ("generator", "before refinement", "class mean colour", "real images")]
    for row in rows:
        assert float(row[2]) == pytest.approx(result.scores["generator"].by_class[row[0]]["iou"], abs=1e-4)
    with Image.open(folder / "samples.png") as picture:
        assert picture.width > 6 * 96 and picture.height > 10 * 96

    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    html = write_page(tmp_path, result, title="<Layouts>").read_text(encoding="utf-8")
    assert_whole(html)
    assert "&lt;Layouts&gt;" in html and html.count("<img") == 2
    for told in ("upright", "Mean IoU", "class mean colour", "F1 of an edge everywhere", "Precision", "12 test images"):
        assert told in html
    assert f"mean IoU of {value(result, 'real', 'miou'):.3f}" in html


def test_an_evaluation_is_neither_lost_nor_mixed(
    evaluate: Callable, painter: Callable, split: LayoutSplit, tmp_path: Path
) -> None:
    steps: list[str] = []
    paint = painter(split.test)
    evaluate(paint, progress=lambda what, done, total: steps.append(f"{what} {done}/{total}"))
    assert steps == [f"painting test layouts {n}/12" for n in (5, 10, 12)]  # the segmenter was there
    write_page(tmp_path, read_layout_evaluation(tmp_path))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UserError, match=r"already holds metrics.json: --force"):
        evaluate(paint)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    with pytest.raises(RuntimeError, match="broken"):
        evaluate(broken, force=True)
    assert not [path.name for path in tmp_path.iterdir() if not path.match(SHARED)]  # half of one is none
    with locked(tmp_path, "evaluate"), pytest.raises(UserError, match="in use by another pyeqgan evaluate"):
        evaluate(paint)
    again = evaluate(paint)
    assert (tmp_path / "metrics.json").read_bytes() == before["metrics.json"] == again.to_json().encode()
    assert (tmp_path / "samples.png").read_bytes() == before["samples.png"]


def broken(labels: Tensor, instance_edges: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    raise RuntimeError("broken")


def test_painters_of_less(evaluate: Callable, painter: Callable, split: LayoutSplit) -> None:
    whole = painter(split.test)
    result = evaluate(lambda labels, edges: (None, whole(labels, edges)[1], None))
    assert result.scores.keys() == {"generator", "painter", "real"}
    assert result.scores["generator"].estimates["own_edges"] is None
    assert result.generator_minus_painter["real_edges"] is None
    assert value(result, "generator", "miou") == value(result, "real", "miou")
    assert "It paints no edges." in result.verdict()
    assert "Better than class mean colours: Mean IoU, Fréchet distance." in result.verdict()


def test_refinement_is_told_apart_and_edges_of_three_channels_are_averaged(
    evaluate: Callable, painter: Callable, split: LayoutSplit
) -> None:
    whole = painter(split.test)

    def paint(labels: Tensor, instance_edges: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        edges, images, _ = whole(labels, instance_edges)
        return torch.cat([edges, -0.3 * edges, 0.1 * edges], 1), torch.zeros_like(images), images

    result = evaluate(paint)
    assert value(result, "generator", "miou") == value(result, "real", "miou") > value(result, "unrefined", "miou")
    assert value(result, "generator", "own_edges") == 1
    assert value(result, "unrefined", "own_edges") == 0  # a grey image has none


def test_an_edge_everywhere_reaches_what_is_told(evaluate: Callable, painter: Callable, split: LayoutSplit) -> None:
    whole = painter(split.test)

    def paint(labels: Tensor, instance_edges: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        edges, images, refined = whole(labels, instance_edges)
        return torch.ones_like(edges), images, refined

    result = evaluate(paint)
    for metric in ("own_edges", "real_edges"):
        assert value(result, "generator", metric) == result.edges_everywhere[metric]
        assert value(result, "generator", metric + "_recall") == 1


def test_the_painter_is_given_instances_if_there_are(textures: Callable, painter: Callable, tmp_path: Path) -> None:
    split, given = LayoutSplit(textures(4, instances=True), textures(3, seed=1, instances=True)), []

    def paint(labels: Tensor, instance_edges: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        given.append(instance_edges)
        return painter(split.test)(labels, instance_edges)

    evaluate_layouts(
        paint, split, LayoutProtocol(segmenter_training=SegmenterConfig(steps=1, batch_size=2)), output=tmp_path
    )
    (edges,) = given
    assert edges.shape == (3, 1, 32, 32) and edges.sum((1, 2, 3)).tolist() == [64, 64, 64]


def test_one_image_and_several_segmenters(textures: Callable, painter: Callable, tmp_path: Path) -> None:
    split = LayoutSplit(textures(4), textures(9, seed=1))
    quick = SegmenterConfig(steps=2, batch_size=4, seed=5)
    for images, folder in ((1, tmp_path / "one"), (3, tmp_path / "three")):
        protocol = LayoutProtocol(most_images=images, repeats=2, segmenter_training=quick)
        result = evaluate_layouts(painter(split.test), split, protocol, output=folder)
        assert result.images == images and len(list(folder.glob(SHARED))) == 2
        assert result.segmenters is not None
        spread = result.segmenters["generator"]
        assert spread["miou"] is not None and spread["miou"].interval is not None
        assert (spread["frechet"] is None) == (images == 1)  # one image has no covariance
        assert (result.scores["generator"].estimates["miou"].interval is None) == (images == 1)  # type: ignore[union-attr]
        assert read_layout_evaluation(folder) == result
        assert "Over 2 segmenters" in write_page(folder, result).read_text(encoding="utf-8")
        assert not math.isnan(value(result, "generator", "miou"))


def faults() -> dict[str, tuple[Callable[[Tensor], tuple], type[Exception], str]]:
    def image(labels: Tensor) -> Tensor:
        return torch.zeros(len(labels), 3, 32, 32)

    return {
        "NaN": (
            lambda x: (image(x)[:, :1], image(x), image(x) / 0),
            UserError,
            "NaN for layouts 'pair 0' to 'pair 4': its training went wrong",
        ),
        "shape": (
            lambda x: (image(x)[:, :1], image(x)[..., :30], image(x)),
            ValueError,
            r"paint: images: expected shape \(5, 3, 32, 32\), got \(5, 3, 32, 30\)",
        ),
        "edges": (
            lambda x: (image(x)[:, :2], image(x), image(x)),
            ValueError,
            r"paint: edges: expected shape \(5, 3, 32, 32\), got \(5, 2, 32, 32\)",
        ),
        "range": (lambda x: (None, image(x), image(x) + 2), ValueError, r"refined: expected values in \[-1, 1\]"),
        "type": (lambda x: (None, image(x).byte(), None), TypeError, "paint: images: expected floating point"),
    }


@pytest.mark.parametrize("fault", faults())
def test_a_painter_that_returns_something_else_is_told(evaluate: Callable, fault: str, tmp_path: Path) -> None:
    paint, error, told = faults()[fault]
    with pytest.raises(error, match=told):
        evaluate(lambda labels, _: paint(labels))
    assert not [path.name for path in tmp_path.iterdir() if not path.match(SHARED)]


def test_halves_that_do_not_fit_are_told(textures: Callable, painter: Callable, tmp_path: Path) -> None:
    paint = painter(textures(2))
    for test, told in ((textures(0), "no test pairs"), (textures(2, size=(16, 32)), r"\(32, 32\) and \(16, 32\)")):
        with pytest.raises(UserError, match=told):
            evaluate_layouts(paint, LayoutSplit(textures(4), test), PROTOCOL, output=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "least"),
    [("most_images", 1), ("batch_size", 1), ("repeats", 1), ("tolerance", 0), ("seed", 0), ("segmenter_training", 1)],
)
def test_numbers_out_of_range_are_told(name: str, least: int) -> None:
    wrong = SegmenterConfig(steps=0) if name == "segmenter_training" else least - 1
    with pytest.raises(UserError, match=f"{least - 1}, expected at least {least}"):
        LayoutProtocol(**{name: wrong})


def test_a_folder_without_an_evaluation_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no evaluation in"):
        read_layout_evaluation(tmp_path)
    (tmp_path / "metrics.json").write_text('{"scores": {}}')
    with pytest.raises(UserError, match="is damaged, or of another version of pyeqgan"):
        read_layout_evaluation(tmp_path)


class Flat:
    """In place of the published networks, whose weights tests do not have: an image's pixels, averaged a little."""

    def __init__(self, *arguments: object, **options: object) -> None: ...

    def features(self, images: np.ndarray) -> Tensor:
        return torch.nn.functional.avg_pool2d(to_tensor(images), 16).flatten(1).double()

    embed = features


def test_published_networks_look_too(
    evaluate: Callable, painter: Callable, split: LayoutSplit, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    module = importlib.import_module("pyeqgan.evaluation.layouts.evaluate")
    monkeypatch.setattr(module, "InceptionFeatures", Flat)
    monkeypatch.setattr(module, "LPIPS", Flat)
    protocol = dataclasses.replace(PROTOCOL, inception=True, lpips="vgg")
    result = evaluate(painter(split.test, shift=1), protocol)
    assert value(result, "generator", "fid") == pytest.approx(0, abs=1e-9)  # the same images all together
    assert value(result, "real", "fid") > 1e-4
    images = Flat().features(np.stack([split.test.pair(index)[0] for index in range(len(split.test))]))
    expected = (images - images.roll(-1, 0)).square().sum(1).mean()
    assert value(result, "generator", "lpips") == pytest.approx(float(expected))
    assert value(result, "real", "lpips") == 0
    assert {"fid", "lpips"} <= result.metrics().keys()
    html = write_page(tmp_path, result).read_text(encoding="utf-8")
    assert "FID" in html and "LPIPS to the real image" in html
