"""One HTML page of an evaluation, with everything in it: it can be sent to someone as it is."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from html import escape
from pathlib import Path

from pyeqgan.errors import UserError
from pyeqgan.evaluation.bootstrap import Estimate
from pyeqgan.evaluation.folder import CHART, PAGE, SAMPLES, write_whole
from pyeqgan.evaluation.result import METRICS, TITLES, EvaluationResult

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 1200px; margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.6em; } h2 { font-size: 1.2em; margin-top: 2em; }
img { max-width: 100%; height: auto; }
table { border-collapse: collapse; width: 100%; } th, td { padding: .4em .8em; text-align: left; vertical-align: top; }
thead th { border-bottom: 2px solid #222; } tbody td, tbody th { border-bottom: 1px solid #ddd; }
td.number { font-variant-numeric: tabular-nums; white-space: nowrap; } small { color: #666; }
.generator { background: #fbf1f5; } .verdict { font-size: 1.1em; border-left: 4px solid #b5446e; padding-left: 1em; }
"""


def write_page(
    output: Path,
    result: EvaluationResult,
    *,
    title: str = "Images of unseen classes",
    pictures: Mapping[str, Path] | None = None,
) -> Path:
    """Write `index.html` into the folder of an evaluation: verdict, samples, table, chart, and what each number means.

    Args:
        output: the folder, with the pictures that `evaluate_generator` left there.
        result: of that evaluation.
        title: of the page.
        pictures: further PNG files to show, by their captions, for example the losses of the training.

    Returns:
        The page.

    Raises:
        UserError: a picture cannot be read, or the page not be written.
    """
    shown = {"References and what was made of them": output / SAMPLES}
    if (output / CHART).exists():
        shown["Metrics with 95 % intervals"] = output / CHART
    shown |= pictures or {}
    samples, *others = (_figure(caption, path) for caption, path in shown.items())
    html = f"""<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title>
<style>{STYLE}</style></head>
<body>
<h1>{escape(title)}</h1>
<p class="verdict">{escape(result.verdict())}</p>
{samples}
<h2>Beside the trivial generators</h2>
{_table(result)}
<p><small>In brackets: 95 % bootstrap intervals over the {len(result.classes)} unseen classes.
{escape(result.note)}</small></p>
{"".join(others)}
<h2>What the numbers can and cannot show</h2>
<dl>{"".join(_explanation(name) for name in METRICS)}</dl>
<h2>How it was measured</h2>
<p>{escape(_setup(result))}</p>
</body>
</html>
"""
    page = output / PAGE
    write_whole(page, html.encode())
    return page


def _table(result: EvaluationResult) -> str:
    head = "".join(f"<th>{escape(m.title)}<br><small>{escape(m.better)}</small></th>" for m in METRICS.values())
    rows = "".join(
        f'<tr class="{name}"><th>{escape(TITLES[name])}<br><small>{scores.images} images</small></th>'
        + "".join(f'<td class="number">{_number(scores.estimates[metric])}</td>' for metric in METRICS)
        + "</tr>\n"
        for name, scores in result.scores.items()
    )
    return f"<table><thead><tr><th></th>{head}</tr></thead>\n<tbody>{rows}</tbody></table>"


def _number(estimate: Estimate | None) -> str:
    if estimate is None:
        return "–"
    if estimate.interval is None:
        return f"{estimate.value:.3g}"
    low, high = estimate.interval
    return f"{estimate.value:.3g} <small>[{low:.3g}, {high:.3g}]</small>"


def _explanation(name: str) -> str:
    metric = METRICS[name]
    return f"<dt><b>{escape(metric.title)}</b></dt><dd>{escape(metric.shows)} <i>{escape(metric.beware)}</i></dd>\n"


def _setup(result: EvaluationResult) -> str:
    settings, network = result.settings, result.feature_network
    versions = ", ".join(f"{name} {version}" for name, version in result.versions.items())
    return (
        f"{len(result.classes)} unseen classes, up to {settings['references_per_class']} references each, "
        f"{settings['shots']} drawn for every image, {settings['fakes_per_class']} images a class, "
        f"{settings['image_size']}² pixels, seed {settings['seed']}. The feature network tells the "
        f"{network['seen_classes']} seen classes apart on {network['held_out_accuracy']:.0%} of images held out "
        f"(by chance {network['chance']:.0%}): the worse it does, the less its features are worth. {versions}."
    )


def _figure(caption: str, path: Path) -> str:
    try:
        data = base64.b64encode(path.read_bytes()).decode()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    caption = escape(caption)
    return f'<h2>{caption}</h2>\n<img alt="{caption}" src="data:image/png;base64,{data}">\n'
