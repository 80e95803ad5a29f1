"""One HTML page of an evaluation, with everything in it: it can be sent to someone as it is."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path

from pyeqgan import pages
from pyeqgan.evaluation.bootstrap import Estimate
from pyeqgan.evaluation.folder import CHART, PAGE, SAMPLES
from pyeqgan.evaluation.published import Published, Row
from pyeqgan.evaluation.result import TITLES, Downstream, EvaluationResult, Metric, Scores
from pyeqgan.files import write_whole


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
    return write_sections(output, sections(output, result), title=title, pictures=pictures)


def write_sections(output: Path, told: str, *, title: str, pictures: Mapping[str, Path] | None) -> Path:
    """Write `index.html` with what is told of an evaluation and further pictures; see `write_page`."""
    others = (pages.figure(caption, pages.read_picture(path)) for caption, path in (pictures or {}).items())
    page = output / PAGE
    write_whole(page, pages.document(title, "\n".join([told, *others])).encode())
    return page


def sections(output: Path, result: EvaluationResult) -> str:
    """What a page tells of an evaluation: verdict, samples, tables, chart, explanations; see `write_page`."""
    chart = output / CHART
    told = [
        f'<p class="verdict">{escape(result.verdict())}</p>',
        pages.figure("References and what was made of them", pages.read_picture(output / SAMPLES)),
        "<h2>Beside the trivial generators</h2>",
        comparison(result.metrics(), result.scores, TITLES),
        f"<p><small>In brackets: 95 % bootstrap intervals over the {len(result.classes)} unseen classes. "
        f"{escape(result.note)}</small></p>",
        "" if result.draws is None else _draws(result, result.draws),
        "" if result.downstream is None else _downstream(result.downstream),
        "" if result.published is None else _published(result, result.published),
        _by_class(result),
        pages.figure("Metrics with 95 % intervals", pages.read_picture(chart)) if chart.exists() else "",
        "<h2>What the numbers can and cannot show</h2>",
        explanations(result.metrics()),
        "<h2>How it was measured</h2>",
        f"<p>{escape(_setup(result))}</p>",
    ]
    return "\n".join(filter(None, told))


def comparison(metrics: Mapping[str, Metric], scores: Mapping[str, Scores], titles: Mapping[str, str]) -> str:
    """A row a metric, a column a generator."""
    head = "".join(
        f'<th class="{name}">{escape(titles[name])}<br><small>{found.images} images</small></th>'
        for name, found in scores.items()
    )
    rows = "".join(
        f"<tr><th>{escape(metric.title)}<br><small>{escape(metric.better)}</small></th>"
        + "".join(_cell(name, found.estimates[key]) for name, found in scores.items())
        + "</tr>\n"
        for key, metric in metrics.items()
    )
    return (
        f'<div class="scroll"><table class="wide"><thead><tr><th></th>{head}</tr></thead>\n'
        f"<tbody>{rows}</tbody></table></div>"
    )


def explanations(metrics: Mapping[str, Metric]) -> str:
    """What each metric can and cannot show."""
    return f"<dl>{''.join(map(_explanation, metrics.values()))}</dl>"


def number(estimate: Estimate | None) -> str:
    """A number and its interval, as HTML; a dash if it does not exist."""
    if estimate is None:
        return "–"
    if estimate.interval is None:
        return f"{estimate.value:.3g}"
    low, high = estimate.interval
    return f"{estimate.value:.3g} <small>[{low:.3g}, {high:.3g}]</small>"


def _cell(generator: str, estimate: Estimate | None) -> str:
    ours = " generator" if generator == "generator" else ""
    return f'<td class="number{ours}">{number(estimate)}</td>'


def _by_class(result: EvaluationResult) -> str:
    """The generator's numbers in each class, as far as they are defined within one."""
    classes = result.scores["generator"].by_class
    metrics = {key: metric for key, metric in result.metrics().items() if key in next(iter(classes.values()))}
    rows = (
        [name, *("–" if numbers[key] is None else f"{numbers[key]:.3g}" for key in metrics)]
        for name, numbers in classes.items()
    )
    table = pages.table(["generator, by class", *(metric.title for metric in metrics.values())], rows)
    return f"<details><summary>Class by class</summary>{table}</details>"


def _draws(result: EvaluationResult, draws: Mapping[str, Estimate]) -> str:
    metrics = result.metrics()
    means = "; ".join(f"{escape(metrics[key].title)} {number(e)}" for key, e in draws.items() if key in metrics)
    return (
        f"<p>Over {result.settings['repeats']} draws of the generator's images, mean and 95 % interval of that mean: "
        f"{means}.</p>"
    )


def _downstream(found: Downstream) -> str:
    images = found.images
    return (
        "<h2>A classifier of the unseen classes</h2>\n"
        f"<p>Accuracy on {images['test']} test images, trained on {images['train']} real ones: "
        f"{number(found.without)}; with {images['generated']} generated ones added: {number(found.with_generated)}; "
        f"difference "
        f"<b>{number(found.difference)}</b>. By chance {found.chance:.3g}. In brackets: 95 % intervals over "
        f"{found.repeats} seeds of split, images and training.</p>"
    )


def _published(result: EvaluationResult, table: Published) -> str:
    ours = result.scores["generator"].estimates
    rows = [
        ["this generator", *(f"{e.value:.4g}" if e else "–" for e in (ours["frechet"], ours["lpips"]))],
        *([row.method, _reported(row, "FID", f"{row.fid:.2f}"), _reported(row, "LPIPS", f"{row.lpips:.4f}")]
          for row in table.rows),
    ]  # fmt: skip
    caution = (
        f"Measured as the script of {result.settings['compat']} does."
        if result.settings["compat"]
        else "The published scripts measure otherwise (--compat): neither FID nor LPIPS is the same quantity."
    )
    return (
        f"<h2>Published for {escape(table.data)}, three references, 128²</h2>\n"
        + pages.table(["", "FID", "LPIPS"], rows)
        + f"<p><small>The data are taken for {escape(table.data)} by their numbers of classes and images. {caution} "
        "Unconfirmed: not checked against the paper itself.</small></p>"
    )


def _reported(row: Row, number: str, value: str) -> str:
    return value if number in row.confirmed else f"{value} (unconfirmed)"


def _explanation(metric: Metric) -> str:
    return f"<dt><b>{escape(metric.title)}</b></dt><dd>{escape(metric.shows)} <i>{escape(metric.beware)}</i></dd>\n"


def _setup(result: EvaluationResult) -> str:
    settings, network = result.settings, result.feature_network
    versions = ", ".join(f"{name} {version}" for name, version in result.versions.items())
    told = [
        f"{len(result.classes)} unseen classes, up to {settings['references_per_class']} references each, "
        f"{settings['shots']} drawn for every image, {settings['fakes_per_class']} images a class, "
        f"{settings['image_size']}² pixels, seed {settings['seed']}."
    ]
    if settings["features"] == "inception":
        told.append(f"Features: FID's Inception network, {network['file']}.")
    if settings["lpips"]:
        told.append(f"LPIPS: {settings['lpips']}, at 32².")
    if "held_out_accuracy" in network:
        told.append(
            f"The feature network tells the {network['seen_classes']} seen classes apart on "
            f"{network['held_out_accuracy']:.0%} of images held out (by chance {network['chance']:.0%}): the worse it "
            "does, the less its features are worth."
        )
    return " ".join([*told, f"{versions}."])
