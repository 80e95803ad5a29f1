"""Pictures of a run: grids of images, and the curves of its losses."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

Pixels = NDArray[np.uint8]

GAP = 2
WIDE_GAP = 10


def image_grid(rows: Sequence[Sequence[Pixels]]) -> Image.Image:
    """Lay images out in rows on white, a row shorter than the longest leaving its end blank.

    Args:
        rows: images uint8 (H,W,3), all of one size.
    """
    height, width = (side + GAP for side in rows[0][0].shape[:2])
    columns = max(map(len, rows))
    canvas = Image.new("RGB", (columns * width + GAP, len(rows) * height + GAP), "white")
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            canvas.paste(Image.fromarray(image), (x * width + GAP, y * height + GAP))
    return canvas


def beside(left: Image.Image, right: Image.Image) -> Image.Image:
    """Two pictures of one height, a white bar between them: what was given | what was generated."""
    canvas = Image.new("RGB", (left.width + WIDE_GAP + right.width, left.height), "white")
    canvas.paste(left, (0, 0))
    canvas.paste(right, (left.width + WIDE_GAP, 0))
    return canvas


def above(top: Image.Image, bottom: Image.Image) -> Image.Image:
    """Two pictures, a white bar between them: what was given over what was generated."""
    canvas = Image.new("RGB", (max(top.width, bottom.width), top.height + WIDE_GAP + bottom.height), "white")
    canvas.paste(top, (0, 0))
    canvas.paste(bottom, (0, top.height + WIDE_GAP))
    return canvas


def in_rows(images: Sequence[Pixels], columns: int) -> list[Sequence[Pixels]]:
    """Images in rows of `columns`, the last one perhaps shorter."""
    return [images[start : start + columns] for start in range(0, len(images), columns)]


def square_columns(count: int) -> int:
    """How many columns make a grid of `count` images about square."""
    return math.ceil(math.sqrt(count))


def png(picture: Image.Image, about: Mapping[str, str] | None = None) -> bytes:
    """The picture as a file, which may tell something about itself, by PNG's keywords."""
    data, texts = io.BytesIO(), PngInfo()
    for keyword, text in (about or {}).items():
        texts.add_text(keyword, text)
    picture.save(data, format="PNG", optimize=True, pnginfo=texts)
    return data.getvalue()


def loss_curves(metrics: Sequence[Mapping[str, Any]]) -> bytes:
    """A PNG of every loss of every player over the steps.

    Args:
        metrics: lines of `metrics.jsonl`: "step", and losses named "player/loss".

    Raises:
        ImportError: matplotlib, which is optional, is not installed.
    """
    from matplotlib.figure import Figure  # not pyplot: no window system is asked for, no state is kept

    losses = sorted({name for line in metrics for name in line if "/" in name})
    players = sorted({name.partition("/")[0] for name in losses})
    figure = Figure(figsize=(5.5 * max(len(players), 1), 4), layout="constrained")
    for place, player in enumerate(players):
        axes = figure.add_subplot(1, len(players), place + 1)
        names = [name for name in losses if name.startswith(f"{player}/")]
        for name in names:
            lines = [line for line in metrics if name in line]
            steps, values = [line["step"] for line in lines], [line[name] for line in lines]
            axes.plot(steps, values, label=name.partition("/")[2], linewidth=1)
        axes.set(title=player, xlabel="step", ylabel="loss (unweighted)")
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=100)
    return png.getvalue()
