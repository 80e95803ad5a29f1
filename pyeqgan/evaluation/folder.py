"""The folder an evaluation writes: who may write in it, and how."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyeqgan.errors import UserError
from pyeqgan.files import locked, writing

METRICS = "metrics.json"
SAMPLES = "samples.png"
CHART = "metrics.png"
CLASSES = "classes.csv"
PAGE = "index.html"
OURS = (METRICS, SAMPLES, CHART, CLASSES, PAGE)


@contextmanager
def room(output: Path, *, force: bool) -> Iterator[None]:
    """Within: the folder is this evaluation's alone. It is made; `force` removes an earlier evaluation from it.

    So no two are ever mixed. Trained networks and other files stay.

    Raises:
        UserError: it holds an evaluation and `force` is not set, or it cannot be made, or another evaluation is
            writing there.
    """
    with writing(output):
        output.mkdir(parents=True, exist_ok=True)
    with locked(output, "evaluate"):
        earlier = [path for path in (output / name for name in OURS) if path.exists()]
        if earlier and not force:
            raise UserError(f"{output} already holds {earlier[0].name}: --force replaces an earlier evaluation")
        with writing(output):
            for path in earlier:
                path.unlink()
        yield
