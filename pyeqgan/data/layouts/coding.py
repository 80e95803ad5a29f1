"""What the values in label files mean."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pyeqgan.data.layouts.images import IGNORED, Labels
from pyeqgan.errors import UserError

MOST_CLASSES = 2**15 - 1
"""Labels are kept in 16 bits."""


@dataclass(frozen=True)
class Coding:
    """How the values of label files name the classes: `first` is class 0, and so on; `ignored` is none."""

    num_classes: int
    ignored: int | None
    first: int = 0

    def decode(self, values: NDArray[np.int32], path: str) -> Labels:
        """Labels of the values of a file; UserError naming it if one means nothing."""
        labels = values.astype(np.int64) - self.first
        none = np.zeros(values.shape, bool) if self.ignored is None else values == self.ignored
        wrong = ((labels < 0) | (labels >= self.num_classes)) & ~none
        if wrong.any():
            row, column = np.argwhere(wrong)[0].tolist()
            expected = f"{self.first} to {self.first + self.num_classes - 1}"
            expected += "" if self.ignored is None else f", or {self.ignored} for none"
            raise UserError(
                f"label {values[row, column]} in {path!r} at row {row}, column {column}: expected {expected}"
            )
        labels[none] = IGNORED
        return labels
