"""What an evaluation leaves behind: numbers as JSON, samples as a picture, metrics as a chart."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from pyeqgan.data.images import Pixels
from pyeqgan.evaluation.folder import CHART, METRICS, SAMPLES
from pyeqgan.evaluation.result import TITLES, EvaluationResult
from pyeqgan.files import write_whole

MOST_ROWS = 10
LEAST_TILE, LARGEST_TILE = 96, 128
GAP, WIDE_GAP, TEXT = 2, 14, 18
COLOURS = {"generator": "#b5446e", "copy": "#8d99ae", "mean": "#c9cfda", "real": "#4c956c"}


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
    write_whole(output / SAMPLES, _png(samples_picture(samples)))
    try:
        write_whole(output / CHART, metrics_chart(result))
    except ImportError:
        warnings.warn(f"matplotlib is not installed: {CHART} is not drawn", stacklevel=3)
    write_whole(output / METRICS, result.to_json().encode())


def samples_picture(samples: Sequence[ClassSamples]) -> Image.Image:
    """A row for each of the first ten classes: references | generator | the trivial ones; captions above and beside."""
    samples = samples[:MOST_ROWS]
    first = samples[0]
    tile = min(max(LEAST_TILE, first.references.shape[1]), LARGEST_TILE)
    groups = ["references", *first.generated]
    widest = {g: max(len(_images(s, g)) for s in samples) * (tile + GAP) for g in groups}
    height = TEXT + len(samples) * (TEXT + tile + GAP)
    canvas = Image.new("RGB", (sum(widest.values()) + WIDE_GAP * len(groups), height), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(13)
    left = WIDE_GAP // 2
    for group in groups:
        draw.text((left, 1), TITLES.get(group, group), fill="black", font=font)
        for row, sample in enumerate(samples):
            top = TEXT + row * (TEXT + tile + GAP)
            if group == "references":
                draw.text((left, top + 1), sample.class_name, fill="dimgray", font=font)
            for column, pixels in enumerate(_images(sample, group)):
                picture = Image.fromarray(pixels).resize((tile, tile), Image.Resampling.BICUBIC)
                canvas.paste(picture, (left + column * (tile + GAP), top + TEXT))
        left += widest[group] + WIDE_GAP
    return canvas


def metrics_chart(result: EvaluationResult) -> bytes:
    """A PNG with a panel for each metric and a bar with its 95 % interval for each generator.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure  # not pyplot: no window system is asked for, no state is kept

    metrics = result.metrics()
    rows, columns = 2, -(-len(metrics) // 2)
    figure = Figure(figsize=(3 * columns, 3.4 * rows), layout="constrained")
    panels = figure.subplots(rows, columns).flat
    for axes in panels[len(metrics) :]:
        axes.set_axis_off()
    for axes, (name, metric) in zip(panels[: len(metrics)], metrics.items(), strict=True):
        for position, (generator, scores) in enumerate(result.scores.items()):
            estimate = scores.estimates[name]
            if estimate is None:
                axes.text(position, 0, "–", ha="center", va="bottom")
                continue
            axes.bar(position, estimate.value, color=COLOURS[generator], width=0.7)
            if estimate.interval is not None:
                axes.vlines(position, *estimate.interval, color="black", linewidth=1)
        labels = [TITLES[generator].replace(" a ", " a\n").replace(", ", ",\n") for generator in result.scores]
        axes.set_xticks(range(len(labels)), labels, fontsize=8)
        axes.set_title(f"{metric.title}\n({metric.better})", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=100)
    return png.getvalue()


def _images(sample: ClassSamples, group: str) -> Pixels:
    return sample.references if group == "references" else sample.generated[group]


def _png(picture: Image.Image) -> bytes:
    data = io.BytesIO()
    picture.save(data, format="PNG")
    return data.getvalue()
