"""An evaluation of painted layouts that was made before, read from its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pyeqgan.evaluation.layouts.result import LayoutEvaluation
from pyeqgan.evaluation.reading import estimates_of, read_metrics, scores_of


def read_layout_evaluation(folder: Path) -> LayoutEvaluation:
    """What `evaluate_layouts` left in a folder; UserError if there is nothing, or it cannot be read as such."""
    return read_metrics(folder, _result)


def _result(values: dict[str, Any]) -> LayoutEvaluation:
    segmenters = values.pop("segmenters")
    return LayoutEvaluation(
        scores=scores_of(values.pop("scores")),
        generator_minus_painter=estimates_of(values.pop("generator_minus_painter")),
        segmenters=segmenters and {name: estimates_of(about) for name, about in segmenters.items()},
        **values,
    )
