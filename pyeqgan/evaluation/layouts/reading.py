"""An evaluation of painted layouts that was made before, read from its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pyeqgan.evaluation.layouts.result import LayoutEvaluation
from pyeqgan.evaluation.reading import read_estimates, read_metrics, read_scores


def read_evaluation(folder: Path) -> LayoutEvaluation:
    """What `evaluate_layouts` left in a folder; UserError if there is nothing, or it cannot be read as such."""
    return read_metrics(folder, _evaluation)


def _evaluation(values: dict[str, Any]) -> LayoutEvaluation:
    segmenters = values.pop("segmenters")
    return LayoutEvaluation(
        scores=read_scores(values.pop("scores")),
        generator_minus_painter=read_estimates(values.pop("generator_minus_painter")),
        segmenters=segmenters and {name: read_estimates(estimates) for name, estimates in segmenters.items()},
        **values,
    )
