"""An evaluation read again is the one that was written."""

from __future__ import annotations

from pathlib import Path

from pyeqgan.evaluation import Estimate, read_result
from pyeqgan.evaluation.published import TABLES
from pyeqgan.evaluation.result import Downstream, EvaluationResult, Scores


def test_all_of_it_comes_back(tmp_path: Path) -> None:
    some, sure = Estimate(0.1 + 0.2, (1 / 3, 2 / 3)), Estimate(1.0, None)
    scores = Scores(3, {"frechet": some, "lpips": None}, {"a": {"accuracy": 0.5, "lpips": None}}, {"mean": 0.5})
    for downstream, published, draws in (
        (None, None, None),
        (Downstream(some, sure, some, 5, 0.25, {"train": 10}), TABLES[85, 17, 40], {"frechet": sure}),
    ):
        result = EvaluationResult(
            note="a note",
            settings={"shots": 3, "subject": {"step": 7}},
            versions={"torch": "2"},
            feature_network={"file": "x"},
            classes={"a": {"references": 1}},
            scores={"generator": scores},
            generator_minus_copy={"distinct": some, "accuracy": None},
            draws=draws,
            downstream=downstream,
            published=published,
        )
        (tmp_path / "metrics.json").write_text(result.to_json())
        assert read_result(tmp_path) == result
