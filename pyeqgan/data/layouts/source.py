"""How a source of pairs is opened."""

from __future__ import annotations

from pathlib import Path

from pyeqgan.data.layouts.embedded import EmbeddedLayouts
from pyeqgan.data.layouts.images import LayoutSplit
from pyeqgan.errors import UserError

EMBEDDED = "embedded-layouts"
EMBEDDED_TRAIN, EMBEDDED_TEST = 2000, 500


def open_layouts(source: str | Path, *, image_size: tuple[int, int], seed: int = 0) -> LayoutSplit:
    """Open a data source: "embedded-layouts"."""
    if source != EMBEDDED:
        raise UserError(f"no layouts {str(source)!r}, expected {EMBEDDED!r}")
    train, test = EMBEDDED_TRAIN, EMBEDDED_TEST
    return LayoutSplit(
        EmbeddedLayouts("train", train, image_size, seed), EmbeddedLayouts("test", test, image_size, seed)
    )
