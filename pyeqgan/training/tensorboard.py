"""A run in TensorBoard, beside `metrics.jsonl`: the same numbers, and the grids of samples."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pyeqgan.errors import UserError
from pyeqgan.files import writing

FOLDER = "tensorboard"
EVENTS = "events.out.tfevents.*"


class TensorBoard:
    """Event files in a run's folder; use as a context.

    Args:
        run: the run's folder.
        step: of the checkpoint that is resumed, 0 for a new run. What an earlier process told of later steps is taken
            again, and no longer shown.
    """

    def __init__(self, run: Path, step: int) -> None:
        self._path = run / FOLDER
        with writing(self._path):
            self._writer = summary_writer()(str(self._path), purge_step=step + 1)

    def __enter__(self) -> TensorBoard:
        return self

    def __exit__(self, *_: object) -> None:
        with writing(self._path):
            self._writer.close()

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Tell the numbers of a step, each under its name; they are in the file when this returns."""
        with writing(self._path):
            for name, value in metrics.items():
                self._writer.add_scalar(name, value, step)
            self._writer.flush()

    def picture(self, step: int, picture: Image.Image) -> None:
        """Show a picture under "samples"."""
        with writing(self._path):
            self._writer.add_image("samples", np.asarray(picture), step, dataformats="HWC")
            self._writer.flush()


def summary_writer() -> Any:
    """Torch's writer of event files; UserError if TensorBoard, which is optional, is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UserError("--tensorboard needs tensorboard: pip install 'pyeqgan[tensorboard]'") from error
    return SummaryWriter
