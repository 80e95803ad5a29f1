"""Evaluations in Inception's features and LPIPS, with random weights: what is measured, counted, written and shown."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from published_weights import accept, write_backbone, write_inception
from torch import Tensor

from pyeqgan.data import Split, to_tensor
from pyeqgan.errors import UserError
from pyeqgan.evaluation import (
    LPIPS,
    DownstreamConfig,
    EvaluationResult,
    FeatureConfig,
    InceptionFeatures,
    Protocol,
    write_page,
)
from pyeqgan.evaluation import evaluate_generator as evaluate
from pyeqgan.evaluation.generators import copy_reference, pixel_mean
from pyeqgan.evaluation.published import TABLES

PROTOCOL = Protocol(2, 6, 3, features="inception", lpips="vgg", feature_training=FeatureConfig(steps=2, batch_size=8))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights")
    write_inception(path)
    write_backbone(path, "vgg")
    return path


@pytest.fixture(scope="module")
def patch(folder: Path) -> pytest.MonkeyPatch:
    with pytest.MonkeyPatch.context() as patch:
        accept(folder, patch)
        patch.setattr("pyeqgan.evaluation.inception.SIZE", 80)  # a fourteenth of the work
        patch.setattr("pyeqgan.evaluation.pooled.FRECHET_REPLICATES_WIDE", 4)
        quick = DownstreamConfig(generated_per_class=4, steps=4, batch_size=8)
        patch.setattr("pyeqgan.evaluation.downstream.DownstreamConfig", lambda: quick)
        yield patch


@pytest.fixture(scope="module")
def small(stripes: Callable) -> Split:
    return Split(seen=stripes([9, 9]), unseen=stripes([9, 8], first=50))


@pytest.fixture(scope="module")
def found(
    folder: Path, patch: pytest.MonkeyPatch, small: Split, tmp_path_factory: pytest.TempPathFactory
) -> tuple[EvaluationResult, Path, Counter[str]]:
    passed: Counter[str] = Counter()

    def counted(name: str, function: Callable) -> Callable:
        def call(self: object, images: list) -> object:
            passed[name] += len(images)
            return function(self, images)

        return call

    output = tmp_path_factory.mktemp("evaluation")
    with pytest.MonkeyPatch.context() as counting:
        counting.setattr(InceptionFeatures, "features", counted("inception", InceptionFeatures.features))
        counting.setattr(LPIPS, "embed", counted("lpips", LPIPS.embed))
        protocol = dataclasses.replace(PROTOCOL, repeats=2, downstream=True)
        result = evaluate(pixel_mean(2), small, protocol, output=output, weights=folder)
    return result, output, passed


def test_each_image_passes_each_network_once(found: tuple[EvaluationResult, Path, Counter[str]]) -> None:
    _, _, passed = found
    few, held_out, fit = 3 + 2, 3 + 2, 3 + 3
    generated = 4 * 2 * 6  # by three generators, and by one of them again, for two classes
    assert passed["lpips"] == generated + held_out
    assert passed["inception"] == generated + 4 * few + held_out + fit


def test_everything_is_measured_and_written(found: tuple[EvaluationResult, Path, Counter[str]]) -> None:
    result, output, _ = found
    written = json.loads((output / "metrics.json").read_text())
    assert written == json.loads(result.to_json())
    assert "published FID" not in result.note and written["settings"]["features"] == "inception"
    assert written["feature_network"]["file"] == "pt_inception-2015-12-05-6726825d.pth"
    assert (output / written["feature_network"]["downstream_file"]).exists()
    for scores in result.scores.values():
        assert all(scores.estimates.values())
    assert result.scores["copy"].estimates["precision"].value <= 1  # type: ignore[union-attr]
    assert result.draws is not None and result.draws.keys() == result.scores["generator"].estimates.keys()
    assert result.downstream is not None and result.downstream.repeats == 2
    assert result.published is None  # the data are others
    subsets = result.scores["generator"].kernel_subsets
    assert subsets is not None and subsets["size"] == 5 and subsets["standard_deviation"] > 0


def test_other_draws_move_what_they_should(found: tuple[EvaluationResult, Path, Counter[str]]) -> None:
    draws = found[0].draws
    assert draws is not None
    first = found[0].scores["generator"].estimates["frechet"]
    assert first is not None and draws["frechet"].value != first.value
    assert draws["frechet"].interval is not None


def test_the_page_shows_it(found: tuple[EvaluationResult, Path, Counter[str]]) -> None:
    result, output, _ = found
    html = write_page(output, result).read_text(encoding="utf-8")
    for text in (
        ">FID<",
        ">KID<",
        "Precision",
        "Recall",
        ">LPIPS<",
        "Over 2 draws",
        "A classifier of the unseen classes",
    ):
        assert text in html
    assert "Published for" not in html and "not comparable with" not in html


def test_published_numbers_stand_beside_with_their_doubts(
    found: tuple[EvaluationResult, Path, Counter[str]],
) -> None:
    result, output, _ = found
    beside = dataclasses.replace(result, published=TABLES[85, 17, 40])
    html = write_page(output, beside).read_text(encoding="utf-8")
    assert "Published for Flowers" in html and "neither FID nor LPIPS is the same quantity" in html
    row = html.partition("<th>LoFGAN</th>")[2].partition("</tr>")[0]
    assert "79.33 (unconfirmed)" in row and "0.3862<" in row
    settings = {**result.settings, "compat": "lofgan"}
    html = write_page(output, dataclasses.replace(beside, settings=settings)).read_text(encoding="utf-8")
    assert "Measured as the script of lofgan does" in html


@pytest.mark.parametrize("compat", ["lofgan", "wavegan"])
def test_published_scripts_measure_otherwise(
    compat: str, found: tuple[EvaluationResult, Path, Counter[str]], folder: Path, small: Split, tmp_path: Path
) -> None:
    protocol, given = dataclasses.replace(PROTOCOL, compat=compat), []

    def generate(references: Tensor, count: int, generator: torch.Generator) -> Tensor:
        assert len(references) == 2
        given.extend(references)
        return pixel_mean(2)(references, count, generator)

    result = evaluate(generate, small, protocol, output=tmp_path, weights=folder)
    first = to_tensor(np.stack([small.unseen.image(c, i) for c in range(2) for i in range(3)]))
    from_the_first = all(any(torch.equal(image, reference) for reference in first) for image in given)
    assert from_the_first == (compat == "wavegan")  # LoFGAN's script shuffles the images before it takes the first
    for metric in ("frechet", "kernel", "lpips"):
        assert result.scores["generator"].estimates[metric] != found[0].scores["generator"].estimates[metric]
    assert not list(tmp_path.glob("features_*"))  # none was asked for


def test_what_is_missing_is_told_before_anything_is_made(
    small: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path / "hub"))
    for protocol, network in ((PROTOCOL, "the FID Inception network"), (Protocol(2, lpips="vgg"), "LPIPS's VGG-16")):
        with pytest.raises(UserError, match=f"no weights of {network}"):
            evaluate(copy_reference, small, protocol, output=tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_downstream_needs_two_classes(stripes: Callable, tmp_path: Path) -> None:
    split = Split(seen=stripes([9, 9]), unseen=stripes([20], first=50))
    with pytest.raises(UserError, match="1 unseen class, expected at least 2 to train classifiers downstream"):
        evaluate(copy_reference, split, Protocol(2, downstream=True), output=tmp_path / "new")
    assert not (tmp_path / "new").exists()
