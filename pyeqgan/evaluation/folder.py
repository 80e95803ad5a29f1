"""The folder an evaluation writes: who may write in it, and how."""

from __future__ import annotations

from pathlib import Path

from pyeqgan.errors import UserError
from pyeqgan.files import writing

METRICS = "metrics.json"
SAMPLES = "samples.png"
CHART = "metrics.png"
PAGE = "index.html"


def make_room(output: Path, *, force: bool) -> None:
    """Make the folder; with `force`, remove an earlier evaluation from it, so that no two are ever mixed.

    Feature networks and other files stay.

    Raises:
        UserError: it holds an evaluation and `force` is not set, or it cannot be made.
    """
    with writing(output):
        output.mkdir(parents=True, exist_ok=True)
        earlier = [path for path in (output / name for name in (METRICS, SAMPLES, CHART, PAGE)) if path.exists()]
        if earlier and not force:
            raise UserError(f"{output} already holds {earlier[0].name}: --force replaces an earlier evaluation")
        for path in earlier:
            path.unlink()
