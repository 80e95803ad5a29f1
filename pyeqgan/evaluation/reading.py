"""An evaluation that was made before, read from its folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pyeqgan.errors import UserError
from pyeqgan.evaluation.bootstrap import Estimate
from pyeqgan.evaluation.folder import METRICS
from pyeqgan.evaluation.published import Published, Row
from pyeqgan.evaluation.result import Downstream, EvaluationResult, Scores

_Result = TypeVar("_Result")


def read_result(folder: Path) -> EvaluationResult:
    """What `evaluate_generator` left in a folder; UserError if there is nothing, or it cannot be read as such."""
    return read_metrics(folder, _result)


def read_metrics(folder: Path, understand: Callable[[dict[str, Any]], _Result]) -> _Result:
    """What `understand` makes of the numbers in a folder; UserError if there are none, or it cannot."""
    file = folder / METRICS
    try:
        return understand(json.loads(file.read_bytes()))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"no evaluation in {folder}: expected a folder with {METRICS}") from error
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file} is damaged, or of another version of pyeqgan: evaluate again") from error


def _result(values: dict[str, Any]) -> EvaluationResult:
    downstream, published, draws = (values.pop(name) for name in ("downstream", "published", "draws"))
    numbers = ("without", "with_generated", "difference")
    return EvaluationResult(
        scores=scores_of(values.pop("scores")),
        generator_minus_copy=estimates_of(values.pop("generator_minus_copy")),
        draws=None if draws is None else {name: _estimate(about) for name, about in draws.items()},
        downstream=downstream and Downstream(**{**downstream, **{n: _estimate(downstream[n]) for n in numbers}}),
        published=published and Published(published["data"], tuple(map(_row, published["rows"]))),
        **values,
    )


def scores_of(values: Mapping[str, Any]) -> dict[str, Scores]:
    """The scores of every generator, as `dataclasses.asdict` left them."""
    return {
        name: Scores(**{**scores, "estimates": estimates_of(scores["estimates"])}) for name, scores in values.items()
    }


def estimates_of(values: Mapping[str, Any]) -> dict[str, Estimate | None]:
    """Estimates by the names of the metrics, as `dataclasses.asdict` left them."""
    return {name: None if about is None else _estimate(about) for name, about in values.items()}


def _estimate(about: Mapping[str, Any]) -> Estimate:
    low_high = about["interval"]
    return Estimate(about["value"], None if low_high is None else (low_high[0], low_high[1]))


def _row(about: Mapping[str, Any]) -> Row:
    return Row(**{**about, "confirmed": tuple(about["confirmed"])})
