"""What an evaluation of painted layouts leaves behind: numbers (JSON, CSV), samples as a picture, a chart, a page."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from pyeqgan import pages
from pyeqgan.data.images import Pixels
from pyeqgan.data.layouts import coloured
from pyeqgan.evaluation.folder import CHART, CLASSES, METRICS, SAMPLES
from pyeqgan.evaluation.layouts.result import TITLES, LayoutEvaluation
from pyeqgan.evaluation.layouts.trial import Sample
from pyeqgan.evaluation.page import comparison, explanations, number, write_sections
from pyeqgan.evaluation.report import rows_picture, write_picture_and_chart
from pyeqgan.files import write_whole

COLUMNS = ("unrefined", "generator", "real", "painter")


def write_report(output: Path, result: LayoutEvaluation, samples: Sequence[Sample]) -> None:
    """Write `classes.csv`, `samples.png`, `metrics.png` if matplotlib is installed, else warn, and `metrics.json`.

    Raises:
        UserError: a file cannot be written.
    """
    picture = rows_picture([(sample.name, _pictures(sample)) for sample in samples], TITLES)
    write_picture_and_chart(output, picture, result.metrics(), result.scores, TITLES)
    write_whole(output / CLASSES, _csv(_class_rows(result)).encode())
    write_whole(output / METRICS, result.to_json().encode())


def write_page(
    output: Path,
    result: LayoutEvaluation,
    *,
    title: str = "Images of given layouts",
    pictures: Mapping[str, Path] | None = None,
) -> Path:
    """Write `index.html` into the folder of an evaluation: verdict, samples, tables, chart, and what each number means.

    Args:
        output: the folder, with the pictures that `evaluate_layouts` left there.
        result: of that evaluation.
        title: of the page.
        pictures: further PNG files to show, by their captions, for example the losses of the training.

    Returns:
        The page.

    Raises:
        UserError: a picture cannot be read, or the page not be written.
    """
    return write_sections(output, sections(output, result), title=title, pictures=pictures)


def sections(output: Path, result: LayoutEvaluation) -> str:
    """What a page tells of an evaluation: verdict, samples, tables, chart, explanations; see `write_page`."""
    chart = output / CHART
    told = [
        f'<p class="verdict">{escape(result.verdict())}</p>',
        pages.figure("Layouts of the test half and what was painted of them", pages.read_picture(output / SAMPLES)),
        "<h2>Beside the trivial painter and real images</h2>",
        comparison(result.metrics(), result.scores, TITLES),
        f"<p><small>In brackets: 95 % bootstrap intervals over the {result.images} test images. "
        f"{escape(result.note)}</small></p>",
        _edges(result),
        "" if result.segmenters is None else _segmenters(result),
        _by_class(result),
        pages.figure("Metrics with 95 % intervals", pages.read_picture(chart)) if chart.exists() else "",
        "<h2>What the numbers can and cannot show</h2>",
        explanations(result.metrics()),
        "<h2>How it was measured</h2>",
        f"<p>{escape(_setup(result))}</p>",
    ]
    return "\n".join(filter(None, told))


def _pictures(sample: Sample) -> dict[str, Pixels]:
    """What a row of the picture shows, by the titles of the columns."""
    pictures = {"layout": coloured(sample.labels.numpy())}
    if sample.edges is not None:
        pictures["edges"] = sample.edges
    pictures |= {name: sample.images[name] for name in COLUMNS if name in sample.images}
    return {name: picture[None] for name, picture in pictures.items()}


def _edges(result: LayoutEvaluation) -> str:
    """Precision and recall of the generator's edges, and what an edge everywhere reaches."""
    ours, metrics = result.scores["generator"].estimates, result.metrics()
    rows = "".join(
        f"<tr><th>{escape(metrics[name].title)}</th>"
        + "".join(f'<td class="number">{number(ours[name + part])}</td>' for part in ("_precision", "_recall", ""))
        + f'<td class="number">{_plain(everywhere)}</td></tr>\n'
        for name, everywhere in result.edges_everywhere.items()
    )
    return (
        "<h2>Painted edges</h2>\n"
        f"<p>Edges that lie within {result.settings['tolerance']} pixels of one another fit.</p>\n"
        '<div class="scroll"><table><thead><tr><th></th><th>Precision</th><th>Recall</th><th>F1</th>'
        f"<th>F1 of an edge everywhere</th></tr></thead>\n<tbody>{rows}</tbody></table></div>"
    )


def _segmenters(result: LayoutEvaluation) -> str:
    assert result.segmenters is not None
    metrics = result.metrics()
    told = "; ".join(
        f"{TITLES[name]}: " + ", ".join(f"{escape(metrics[key].title)} {number(e)}" for key, e in estimates.items())
        for name, estimates in result.segmenters.items()
    )
    return (
        f"<p>Over {result.settings['repeats']} segmenters of other seeds, mean and 95 % interval of that mean: {told}."
        "</p>"
    )


def _by_class(result: LayoutEvaluation) -> str:
    head, *rows = _class_rows(result)
    return f"<details><summary>Class by class</summary>{pages.table(head, rows)}</details>"


def _class_rows(result: LayoutEvaluation) -> list[list[str]]:
    """A head, and a row a class: its name, its share of the pixels, and its IoU with every painter."""
    total = sum(about["pixels"] for about in result.classes.values())
    rows = [
        [
            name,
            f"{about['pixels'] / total:.4g}" if total else "–",
            *(_plain(scores.by_class[name]["iou"]) for scores in result.scores.values()),
        ]
        for name, about in result.classes.items()
    ]
    return [["class", "share of pixels", *(f"IoU, {TITLES[name]}" for name in result.scores)], *rows]


def _csv(rows: Sequence[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(["" if cell == "–" else cell for cell in row] for row in rows)
    return text.getvalue()


def _plain(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _setup(result: LayoutEvaluation) -> str:
    settings, about = result.settings, result.segmenter
    ceiling = result.scores["real"].estimates["miou"]
    height, width = settings["image_size"]
    told = [
        f"{result.images} test layouts of {height} × {width} pixels and {len(result.classes)} classes, "
        f"seed {settings['seed']}. Segmenter: {about['files'][0]}, trained on {about['pairs']} real pairs of the "
        f"training half in {settings['segmenter_training']['steps']} steps."
    ]
    if ceiling is not None:
        told.append(
            f"On real test images it reaches a mean IoU of {ceiling.value:.3f}: the worse, the less its numbers say."
        )
    versions = ", ".join(f"{name} {version}" for name, version in result.versions.items())
    return " ".join([*told, f"{versions}."])
