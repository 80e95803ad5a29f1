"""Pairs of images and label maps on disk, in which the image tells the labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

GREY = 40  # between the greys of two classes


def blocks(classes: Sequence[int], height: int = 40, width: int = 60, cell: int = 10) -> np.ndarray:
    """A label map (h,w) of cells that repeat classes, each row of cells beginning one class later."""
    rows, columns = np.arange(height)[:, None] // cell, np.arange(width) // cell
    return np.asarray(classes)[(rows + columns) % len(classes)].astype(np.uint8)


def save(path: Path, values: np.ndarray, mode: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values)
    (image if mode is None else image.convert(mode)).save(path)
    return path


def save_pair(image: Path, labels: Path, classes: np.ndarray, coded: np.ndarray | None = None) -> None:
    """An image whose grey is GREY × class, and its labels, as they are or coded."""
    save(image, (classes * GREY).astype(np.uint8), "RGB")
    save(labels, classes if coded is None else coded)


def own(root: Path, count: int = 3, classes: Sequence[int] = (0, 1, 2), suffix: str = ".png") -> Path:
    """root/images and root/labels; pair i begins with another class."""
    for index in range(count):
        shifted = [*classes[index % len(classes) :], *classes[: index % len(classes)]]
        name = f"{index:03d}"
        save_pair(root / "images" / f"{name}{suffix}", root / "labels" / f"{name}.png", blocks(shifted))
    return root
