"""What an evaluation leaves behind: numbers as JSON, samples as a picture, metrics as a chart."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from pyeqgan.data.images import Pixels
from pyeqgan.evaluation.folder import CHART, METRICS, SAMPLES
from pyeqgan.evaluation.result import TITLES, EvaluationResult, Metric, Scores
from pyeqgan.files import write_whole

MOST_ROWS = 10
LEAST_TILE, LARGEST_TILE = 96, 128
GAP, WIDE_GAP, TEXT = 2, 14, 18
COLOURS = {
    "generator": "#b5446e",
    "unrefined": "#d9a0b5",
    "copy": "#8d99ae",
    "mean": "#c9cfda",
    "painter": "#8d99ae",
    "real": "#4c956c",
}


@dataclass(frozen=True)
class ClassSamples:
    """Images of one unseen class to look at, uint8 (n,S,S,3)."""

    class_name: str
    references: Pixels
    generated: Mapping[str, Pixels]


def write_report(output: Path, result: EvaluationResult, samples: Sequence[ClassSamples]) -> None:
    """Write `metrics.json`, `samples.png` and, if matplotlib is installed, `metrics.png`; else warn.

    Raises:
        UserError: a file cannot be written.
    """
    write_picture_and_chart(output, samples_picture(samples), result.metrics(), result.scores, TITLES)
    write_whole(output / METRICS, result.to_json().encode())


def write_picture_and_chart(
    output: Path,
    picture: Image.Image,
    metrics: Mapping[str, Metric],
    scores: Mapping[str, Scores],
    titles: Mapping[str, str],
) -> None:
    """Write `samples.png` and, if matplotlib is installed, `metrics.png`, see `metrics_chart`; else warn."""
    write_whole(output / SAMPLES, _png(picture))
    try:
        write_whole(output / CHART, metrics_chart(metrics, scores, titles))
    except ImportError:
        warnings.warn(f"matplotlib is not installed: {CHART} is not drawn", stacklevel=4)


def samples_picture(samples: Sequence[ClassSamples]) -> Image.Image:
    """A row for each of the first ten classes: references | generator | the trivial ones; captions above and beside."""
    return rows_picture([(s.class_name, {"references": s.references, **s.generated}) for s in samples], TITLES)


def rows_picture(rows: Sequence[tuple[str, Mapping[str, Pixels]]], titles: Mapping[str, str]) -> Image.Image:
    """A row of pictures under its caption for each of the first ten, in columns that have a title each.

    Args:
        rows: caption, and pictures uint8 (n,H,W,3) by the column they stand in; the same columns in every row.
        titles: of the columns; one that has none here is titled by its name.
    """
    rows = rows[:MOST_ROWS]
    columns = list(rows[0][1])
    height, width = rows[0][1][columns[0]].shape[1:3]
    tile = min(max(LEAST_TILE, height), LARGEST_TILE)
    across = round(tile * width / height)
    font = ImageFont.load_default(13)
    widest = {
        column: max(
            max(len(pictures[column]) for _, pictures in rows) * (across + GAP),
            math.ceil(font.getlength(titles.get(column, column))),
        )
        for column in columns
    }
    size = (sum(widest.values()) + WIDE_GAP * len(columns), TEXT + len(rows) * (TEXT + tile + GAP))
    canvas = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(canvas)
    left = WIDE_GAP // 2
    for number, column in enumerate(columns):
        draw.text((left, 1), titles.get(column, column), fill="black", font=font)
        for row, (caption, pictures) in enumerate(rows):
            top = TEXT + row * (TEXT + tile + GAP)
            if number == 0:
                draw.text((left, top + 1), caption, fill="dimgray", font=font)
            for place, pixels in enumerate(pictures[column]):
                picture = Image.fromarray(pixels).resize((across, tile), Image.Resampling.BICUBIC)
                canvas.paste(picture, (left + place * (across + GAP), top + TEXT))
        left += widest[column] + WIDE_GAP
    return canvas


def metrics_chart(metrics: Mapping[str, Metric], scores: Mapping[str, Scores], titles: Mapping[str, str]) -> bytes:
    """A PNG with a panel for each metric and a bar with its 95 % interval for each generator.

    Args:
        metrics: by their names.
        scores: of each generator, by its name.
        titles: of the generators.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure  # not pyplot: no window system is asked for, no state is kept

    rows, columns = 2, -(-len(metrics) // 2)
    figure = Figure(figsize=(3 * columns, 3.4 * rows), layout="constrained")
    panels = figure.subplots(rows, columns).flat
    for axes in panels[len(metrics) :]:
        axes.set_axis_off()
    for axes, (name, metric) in zip(panels[: len(metrics)], metrics.items(), strict=True):
        for position, (generator, found) in enumerate(scores.items()):
            estimate = found.estimates[name]
            if estimate is None:
                axes.text(position, 0, "–", ha="center", va="bottom")
                continue
            axes.bar(position, estimate.value, color=COLOURS[generator], width=0.7)
            if estimate.interval is not None:
                axes.vlines(position, *estimate.interval, color="black", linewidth=1)
        labels = [titles[generator].replace(" a ", " a\n").replace(", ", ",\n") for generator in scores]
        axes.set_xticks(range(len(labels)), labels, fontsize=8)
        axes.set_title(f"{metric.title}\n({metric.better})", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=100)
    return png.getvalue()


def _png(picture: Image.Image) -> bytes:
    data = io.BytesIO()
    picture.save(data, format="PNG")
    return data.getvalue()
