"""The page of a run, section by section."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import cast

from pyeqgan import info
from pyeqgan.errors import UserError
from pyeqgan.evaluation import read_result, sections
from pyeqgan.evaluation.folder import METRICS
from pyeqgan.evaluation.layouts import LayoutEvaluation, read_layout_evaluation
from pyeqgan.evaluation.layouts import sections as layout_sections
from pyeqgan.files import write_whole
from pyeqgan.options import ECGANOptions, EqGANOptions, ReportOptions, TrainOptions, flag
from pyeqgan.pages import document, image, settings, table
from pyeqgan.report import ecgan, eqgan
from pyeqgan.report.through_time import through_time
from pyeqgan.telling import Progress, Report
from pyeqgan.trained.checkpoint import model_of, subject
from pyeqgan.training.checkpoint import Checkpoint, load_latest
from pyeqgan.training.pictures import loss_curves
from pyeqgan.training.run_folder import RunFolder, read_config

PAGE = "report.html"


def write_run_report(options: ReportOptions, report: Report, progress: Progress | None = None) -> Path:
    """Write the page of a run: samples through time, evaluation, nearest training images, losses, configuration.

    Args:
        options: of the command.
        report: called with a line for each thing worth knowing.
        progress: told what is being done.

    Returns:
        The page.

    Raises:
        UserError: there is no run or no checkpoint yet, its data cannot be read, or the page not be written, or is
            there already and `options.force` is not set.
    """
    page = options.output or options.run / PAGE
    if page.exists() and not options.force:
        raise UserError(f"{page} exists: --force replaces it")
    config, metrics = read_config(options.run), RunFolder(options.run).metrics()
    checkpoint = load_latest(options.run, report, ["ema"])
    parts = [_summary(config, checkpoint, metrics), _unreadable(options.run), through_time(options.run / "samples")]
    parts.append(_evaluation(options, checkpoint))
    if options.samples and isinstance(config, EqGANOptions):
        parts.append(eqgan.memory(checkpoint, options, progress))
    parts += [_losses(metrics), _configuration(config), _environment()]
    write_whole(page, document(f"Run {options.run.resolve().name}", "\n".join(parts)).encode())
    return page


def _summary(config: TrainOptions, checkpoint: Checkpoint, metrics: list[dict[str, float]]) -> str:
    speed = f", {metrics[-1]['steps_per_second']:.3g} steps a second at the last" if metrics else ""
    if isinstance(config, ECGANOptions):
        what = ecgan.summary(config, checkpoint)
    else:
        what = eqgan.summary(cast(EqGANOptions, config), checkpoint)
    text = f"{checkpoint.step} of {config.steps} steps on {what}{speed}."
    return f'<p class="verdict">{escape(text)}</p>'


def _unreadable(run: Path) -> str:
    lines = RunFolder(run).unreadable()
    if not lines:
        return ""
    told = f"Images that could not be read in training, and gave their places to others: {len(lines)}"
    return f"<details><summary>{told}</summary><pre>{escape(chr(10).join(lines))}</pre></details>"


def _evaluation(options: ReportOptions, checkpoint: Checkpoint) -> str:
    folder = options.evaluation or options.run / "evaluation"
    if options.evaluation is None and not (folder / METRICS).exists():
        return "<h2>Evaluation</h2>\n<p>Not evaluated yet: pyeqgan evaluate does it.</p>"
    layouts = model_of(checkpoint) == "ecgan"
    result = read_layout_evaluation(folder) if layouts else read_result(folder)
    of, now = result.settings["subject"], subject(checkpoint)
    if of is None or of.get("run") != now["run"] or (of["step"] == now["step"] and of != now):
        raise UserError(f"the evaluation in {folder} is not of this run: --evaluation names another folder")
    told = layout_sections(folder, result) if isinstance(result, LayoutEvaluation) else sections(folder, result)
    later = "" if of == now else f", {int(now['step']) - of['step']:+} steps since then"
    return f"<h2>Evaluation of step {of['step']}{later}</h2>\n{told}"


def _losses(metrics: list[dict[str, float]]) -> str:
    if not metrics:
        return "<h2>Losses</h2>\n<p>There is no line of metrics yet.</p>"
    try:
        curves = image(loss_curves(metrics), "losses of both networks over the steps")
    except ImportError:
        curves = "<p>No curves: matplotlib is not installed (pip install 'pyeqgan[plots]').</p>"
    last = metrics[-1]
    numbers = table(
        ["loss, unweighted", f"at step {last['step']}"], [(n, f"{v:.4g}") for n, v in last.items() if "/" in n]
    )
    return f"<h2>Losses</h2>\n{curves}\n{numbers}"


def _configuration(config: TrainOptions) -> str:
    defaults = {field.name: field.default for field in dataclasses.fields(config)} | {"model": "eqgan"}
    told = {n: v for n, v in config.to_dict().items() if v != defaults[n] and v is not None and n != "device"}
    command = shlex.join(["pyeqgan", "train", "--output", str(config.output), *_arguments(told)])
    return (
        f"<h2>Configuration</h2>\n<pre>{escape(command)}</pre>\n<details><summary>All options</summary>"
        f"{settings({flag(name): value for name, value in config.to_dict().items()})}</details>"
    )


def _arguments(options: Mapping[str, object]) -> list[str]:
    arguments = []
    for name, value in options.items():
        if isinstance(value, bool):
            arguments.append(flag(name) if value else flag(f"no_{name}"))
        else:
            arguments += [flag(name), str(value)]
    return arguments


def _environment() -> str:
    return f"<h2>Environment of this report</h2>\n<pre>{escape(info.render(info.collect()))}</pre>"
