"""The protocol from end to end on made-up classes: what it measures, what it writes, what it refuses."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from pyeqgan.data import Split, SyntheticFlowers, to_tensor
from pyeqgan.errors import UserError
from pyeqgan.evaluation import EvaluationResult, FeatureConfig, Protocol, evaluate_generator
from pyeqgan.evaluation.classify import read_images
from pyeqgan.evaluation.generators import copy_reference, pixel_mean
from pyeqgan.evaluation.trial import plan_class
from pyeqgan.models import EqGAN, EqGANConfig

QUICK = FeatureConfig(steps=15, batch_size=24)
MEASURED = (
    "frechet",
    "kernel",
    "precision",
    "recall",
    "accuracy",
    "pairwise",
    "distinct",
    "nearest_reference",
)


def evaluate(split: Split, output: Path, generate: Callable = copy_reference, **changes: object) -> EvaluationResult:
    calls = {name: changes.pop(name) for name in ("progress", "force", "weights") if name in changes}
    numbers = {"shots": 3, "fakes_per_class": 12, "references_per_class": 5, "feature_training": QUICK, **changes}
    return evaluate_generator(generate, split, Protocol(**numbers), output=output, **calls)  # type: ignore[arg-type]


def noise(references: Tensor, count: int, generator: torch.Generator) -> Tensor:
    return torch.rand(count, *references.shape[1:], generator=generator) * 2 - 1


def value(result: EvaluationResult, generator: str, metric: str) -> float:
    estimate = result.scores[generator].estimates[metric]
    assert estimate is not None
    return estimate.value


@pytest.mark.parametrize(("count", "references"), [(7, 3), (8, 4), (14, 10), (80, 10)])
def test_a_plan_uses_every_image_once(count: int, references: int) -> None:
    plan = plan_class("x", count, shots=3, references=10)
    assert plan.references == range(references)
    assert sorted([*plan.references, *plan.fit, *plan.held_out]) == list(range(count))
    assert 0 <= len(plan.fit) - len(plan.held_out) <= 1
    assert len(plan.held_out) >= 2


def test_a_class_that_is_too_small() -> None:
    with pytest.raises(UserError, match="unseen class 'rose' has 6 images, expected at least 7: 3 references and 4"):
        plan_class("rose", 6, shots=3, references=10)


def test_copying_scores_as_copying(split: Split, tmp_path: Path) -> None:
    result = evaluate(split, tmp_path)
    assert result.scores["generator"] == result.scores["copy"]
    assert value(result, "copy", "nearest_reference") == 0
    assert value(result, "copy", "distinct") <= 3 + 1e-6
    assert value(result, "mean", "distinct") == pytest.approx(1)
    assert value(result, "mean", "nearest_reference") > 0
    assert all(d is not None and d.value == 0 for d in result.generator_minus_copy.values())
    assert "Not clearly more or less diverse than copying" in result.verdict()


def test_new_images_of_the_class_beat_copies_and_noise_does_not(
    split: Split, stripes: Callable, tmp_path: Path
) -> None:
    class Oracle:
        """Knows more images of the class: what a perfect generator would do."""

        def __init__(self) -> None:
            self.more = stripes([60, 60, 60], first=100)
            self.calls = 0

        def __call__(self, references: Tensor, count: int, generator: torch.Generator) -> Tensor:
            index, self.calls = self.calls // 2, self.calls + 1
            return to_tensor(read_images(self.more, index, range(60 - count, 60)))

    config = FeatureConfig(steps=30, batch_size=24)
    result = evaluate(split, tmp_path / "oracle", Oracle(), feature_training=config)
    assert value(result, "generator", "frechet") < 2 * value(result, "copy", "frechet")  # copies are real images
    assert value(result, "generator", "distinct") > value(result, "copy", "distinct")
    assert value(result, "generator", "accuracy") > 0.9
    assert "More diverse than copying" in result.verdict() and "Recognised above chance: 100%" in result.verdict()

    result = evaluate(split, tmp_path / "noise", noise, feature_training=config)
    assert value(result, "generator", "frechet") > 3 * value(result, "copy", "frechet")
    assert value(result, "generator", "accuracy") < 0.6
    assert value(result, "generator", "nearest_reference") > value(result, "real", "nearest_reference")
    assert "Not clearly recognised above chance" in result.verdict()


def test_what_is_written(split: Split, tmp_path: Path) -> None:
    steps = []
    result = evaluate(split, tmp_path, pixel_mean(3), progress=lambda *step: steps.append(step))
    found = json.loads((tmp_path / "metrics.json").read_text())
    assert found == json.loads(result.to_json())
    assert "not comparable with published FID" in found["note"]
    assert found["settings"]["seed"] == 0 and found["settings"]["feature_training"]["steps"] == 15
    assert found["versions"].keys() == {"pyeqgan", "torch", "numpy", "python"}
    assert found["classes"]["stripes 101"] == {"references": 5, "fit": 8, "held_out": 7}
    assert found["scores"].keys() == {"generator", "copy", "mean", "real"}
    assert found["scores"]["copy"]["images"] == 36 and found["scores"]["real"]["images"] == 9 + 7 + 12
    for scores in found["scores"].values():
        assert scores["estimates"].pop("lpips") is None  # there is no network for it
        assert scores["estimates"].keys() == {*MEASURED}
        for estimate in scores["estimates"].values():
            low, high = estimate["interval"]
            assert low <= estimate["value"] <= high
        mean = sum(c["accuracy"] for c in scores["by_class"].values()) / 3
        assert scores["estimates"]["accuracy"]["value"] == pytest.approx(mean)
    for picture in ("samples.png", "metrics.png"):
        with Image.open(tmp_path / picture) as image:
            assert min(image.size) > 200
    written = {path.name for path in tmp_path.iterdir()}
    assert written == {"metrics.json", "samples.png", "metrics.png", found["feature_network"]["file"]}
    assert steps[0] == ("training the feature network", 1, 15)
    assert ("evaluating unseen classes", 3, 3) in steps
    assert steps[-1] == ("drawing classes for the intervals", 4, 4)


def test_the_same_seed_gives_the_same_numbers(split: Split, tmp_path: Path) -> None:
    first, second, other = (
        evaluate(split, tmp_path / str(run), noise, seed=seed).to_json() for run, seed in enumerate((1, 1, 2))
    )
    assert first == second
    assert first != other


def test_an_earlier_evaluation_is_kept_unless_forced(split: Split, tmp_path: Path) -> None:
    evaluate(split, tmp_path)
    before = (tmp_path / "metrics.json").read_bytes()
    with pytest.raises(UserError, match=r"already holds metrics\.json: --force replaces"):
        evaluate(split, tmp_path, noise)
    assert (tmp_path / "metrics.json").read_bytes() == before
    (tmp_path / "index.html").write_text("of the earlier one")
    (tmp_path / "notes.txt").write_text("mine")
    trained = []
    evaluate(split, tmp_path, noise, force=True, progress=lambda what, *_: trained.append(what))
    assert (tmp_path / "metrics.json").read_bytes() != before
    assert "training the feature network" not in trained  # it was found again
    assert not (tmp_path / "index.html").exists() and (tmp_path / "notes.txt").exists()


def test_one_image_of_each_class(split: Split, tmp_path: Path) -> None:
    result = evaluate(split, tmp_path, fakes_per_class=1, shots=1, references_per_class=1)
    estimates = result.scores["generator"].estimates
    assert estimates["frechet"] is not None and estimates["accuracy"] is not None
    assert estimates["pairwise"] is None and estimates["distinct"] is None
    assert "Too few images" in result.verdict()


def test_one_image_of_one_class(stripes: Callable, tmp_path: Path) -> None:
    split = Split(seen=stripes([9, 9]), unseen=stripes([7], first=50))
    result = evaluate(split, tmp_path, fakes_per_class=1)
    estimates = result.scores["generator"].estimates
    assert [name for name, e in estimates.items() if e is not None] == ["precision", "nearest_reference"]
    assert json.loads(result.to_json())["scores"]["generator"]["estimates"]["frechet"] is None
    assert "no other to mistake it for" in result.verdict()


def test_one_class(stripes: Callable, tmp_path: Path) -> None:
    split = Split(seen=stripes([9, 9]), unseen=stripes([20], first=50))
    frechet = evaluate(split, tmp_path).scores["generator"].estimates["frechet"]
    assert frechet is not None and frechet.value > 0 and frechet.interval is None


def test_real_images_that_are_all_alike(tmp_path: Path, stripes: Callable) -> None:
    class Same:
        class_names, image_size = ("a", "b"), 32

        def __len__(self) -> int:
            return 2

        def count(self, class_index: int) -> int:
            return 9

        def image(self, class_index: int, image_index: int) -> object:
            return stripes([1, 1]).image(class_index, 0)

    result = evaluate(Split(seen=stripes([9, 9], first=50), unseen=Same()), tmp_path)  # type: ignore[arg-type]
    assert value(result, "generator", "accuracy") == 1
    assert result.scores["generator"].estimates["distinct"] is None  # nothing tells how far apart is different


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shots": 0}, "shots 0, expected at least 1"),
        ({"fakes_per_class": 0}, "fakes per class 0, expected at least 1"),
        ({"references_per_class": 2}, "references per class 2, expected at least 3"),
        ({"seed": -1}, "seed -1, expected at least 0"),
        ({"shots": 17, "references_per_class": 17}, "unseen class 'stripes 101' has 20 images, expected at least 21"),
    ],
)
def test_bad_numbers_are_told_before_anything_is_made(
    split: Split, tmp_path: Path, changes: dict[str, int], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        evaluate(split, tmp_path / "new", **changes)
    assert not (tmp_path / "new").exists()


def test_bad_data(stripes: Callable, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no unseen classes to evaluate on"):
        evaluate(Split(seen=stripes([9, 9]), unseen=stripes([])), tmp_path / "new")
    with pytest.raises(UserError, match="1 seen classes, expected at least 2"):
        evaluate(Split(seen=stripes([9]), unseen=stripes([20])), tmp_path / "new")
    with pytest.raises(ValueError, match="of one size, got 32 and 48"):
        evaluate(Split(seen=stripes([9, 9]), unseen=stripes([20], image_size=48)), tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda r, n: torch.zeros(n, 3, 16, 16),
            ValueError,
            r"shape \(12, 3, 32, 32\), got \(12, 3, 16, 16\)",
        ),
        (lambda r, n: torch.zeros(n - 1, *r.shape[1:]), ValueError, r"got \(11, 3, 32, 32\)"),
        (lambda r, n: torch.zeros(n, *r.shape[1:], dtype=torch.uint8), TypeError, "got torch.uint8"),
        (lambda r, n: torch.full((n, *r.shape[1:]), 255.0), ValueError, r"values in \[-1, 1\], got 255 to 255"),
        (lambda r, n: torch.full((n, *r.shape[1:]), torch.nan), UserError, "returns NaN for class 'stripes 100'"),
    ],
)
def test_what_a_generator_must_return(
    split: Split, tmp_path: Path, make: Callable, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        evaluate(split, tmp_path, lambda references, count, _: make(references, count))
    assert not (tmp_path / "metrics.json").exists()


def test_without_matplotlib(split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.warns(UserWarning, match=r"matplotlib is not installed: metrics\.png is not drawn") as warned:
        evaluate(split, tmp_path)
    assert len(warned) == 1
    assert (tmp_path / "metrics.json").exists() and not (tmp_path / "metrics.png").exists()


def test_eqgan_on_the_embedded_flowers(tmp_path: Path) -> None:
    split = Split(seen=SyntheticFlowers(4, 8, 32, seed=0), unseen=SyntheticFlowers(2, 12, 32, seed=1))
    model = EqGAN(EqGANConfig(4, image_size=32, width=0.125)).eval()

    def generate(references: Tensor, count: int, generator: torch.Generator) -> Tensor:
        return model.generate(references, count, generator=generator)

    result = evaluate(split, tmp_path, generate, fakes_per_class=6)
    assert value(result, "generator", "nearest_reference") > 0
    assert value(result, "real", "accuracy") >= 0.5


def test_every_call_draws_its_own(split: Split, tmp_path: Path) -> None:
    draws = []

    def generate(references: Tensor, count: int, generator: torch.Generator) -> Tensor:
        draws.append((len(references), float(torch.rand((), generator=generator))))
        return copy_reference(references, count, generator)

    evaluate(split, tmp_path, generate)
    assert [shown for shown, _ in draws] == [5, 3, 5, 3, 5, 3]  # all references, then as few as an image is made of
    assert len({draw for _, draw in draws}) == 6
