"""The page of a run, section by section."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping
from html import escape
from pathlib import Path

import numpy as np
from torch import Tensor

from pyeqgan import info
from pyeqgan.data import ImageClasses, Split, to_tensor, to_uint8
from pyeqgan.data.images import Pixels
from pyeqgan.errors import UserError
from pyeqgan.evaluation import read_result, sections
from pyeqgan.evaluation.folder import METRICS
from pyeqgan.files import write_whole
from pyeqgan.models import EqGANGenerator
from pyeqgan.options import EqGANOptions, ReportOptions, TrainOptions, flag
from pyeqgan.pages import document, figure, image, settings, table
from pyeqgan.report.nearest import Nearest, nearest_images
from pyeqgan.report.pictures import nearest_picture
from pyeqgan.report.through_time import through_time
from pyeqgan.telling import Progress, Report
from pyeqgan.trained import averaged_generator, data_of, subject
from pyeqgan.training.checkpoint import Checkpoint, load_latest
from pyeqgan.training.device import resolve_device
from pyeqgan.training.pictures import loss_curves, png
from pyeqgan.training.run_folder import RunFolder, read_config

PAGE = "report.html"
CLASSES = 4


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
    generator = averaged_generator(checkpoint).to(resolve_device(options.device))
    parts = [_summary(config, checkpoint, generator, metrics), through_time(options.run / "samples")]
    parts.append(_evaluation(options, checkpoint))
    if options.samples:
        parts.append(_memory(_compare(generator, _data(checkpoint, options), options, progress)))
    parts += [_losses(metrics), _configuration(config), _environment()]
    write_whole(page, document(f"Run {options.run.resolve().name}", "\n".join(parts)).encode())
    return page


def _summary(
    config: EqGANOptions, checkpoint: Checkpoint, generator: EqGANGenerator, metrics: list[dict[str, float]]
) -> str:
    parameters = sum(parameter.numel() for parameter in generator.parameters())
    speed = f", {metrics[-1]['steps_per_second']:.3g} steps a second at the last" if metrics else ""
    text = (
        f"{checkpoint.step} of {config.steps} steps on {len(checkpoint.about['classes'])} classes of {config.data}, at "
        f"{config.image_size}², {config.batch_size} episodes of {config.shots} images a step{speed}. "
        f"The generator has {parameters / 1e6:.2f} million parameters."
    )
    return f'<p class="verdict">{escape(text)}</p>'


def _data(checkpoint: Checkpoint, options: ReportOptions) -> Split:
    try:
        seen = checkpoint.about["options"]["seen_classes"]
        return data_of(checkpoint, options.data, seen)
    except UserError as error:
        raise UserError(f"{error} (--samples 0 does without the data)") from error


def _evaluation(options: ReportOptions, checkpoint: Checkpoint) -> str:
    folder = options.evaluation or options.run / "evaluation"
    if options.evaluation is None and not (folder / METRICS).exists():
        return "<h2>Evaluation</h2>\n<p>Not evaluated yet: pyeqgan evaluate does it.</p>"
    result = read_result(folder)
    of, now = result.settings["subject"], subject(checkpoint)
    if of is None or of.get("run") != now["run"] or (of["step"] == now["step"] and of != now):
        raise UserError(f"the evaluation in {folder} is not of this run: --evaluation names another folder")
    later = "" if of == now else f", {int(now['step']) - of['step']:+} steps since then"
    return f"<h2>Evaluation of step {of['step']}{later}</h2>\n{sections(folder, result)}"


@dataclasses.dataclass(frozen=True)
class _Comparison:
    """Generated and real images of the same unseen classes, each with the training image nearest to it."""

    generated: Pixels
    real: Pixels
    nearest_to_generated: Nearest
    nearest_to_real: Nearest


def _compare(
    generator: EqGANGenerator, split: Split, options: ReportOptions, progress: Progress | None
) -> _Comparison | None:
    """None if no unseen class has images beside the references to compare with."""
    shots, samples, unseen = generator.config.shots, options.samples, split.unseen
    chosen = [index for index in range(len(unseen)) if unseen.count(index) > shots][:CLASSES]
    if not chosen:
        return None
    generated = [to_uint8(_generate(generator, unseen, index, samples, options.seed)) for index in chosen]
    real = [_read(unseen, index, range(shots, min(shots + samples, unseen.count(index)))) for index in chosen]
    made, held_out = np.concatenate(generated), np.concatenate(real)

    def told(done: int, total: int) -> None:
        if progress is not None:
            progress("comparing with all training images", done, total)

    both = nearest_images(np.concatenate([made, held_out]), split.seen, told)
    return _Comparison(made, held_out, both[: len(made)], both[len(made) :])


def _generate(generator: EqGANGenerator, unseen: ImageClasses, index: int, samples: int, seed: int) -> Tensor:
    references = to_tensor(_read(unseen, index, range(generator.config.shots)))
    return generator.generate(references, samples, seed=seed)


def _read(classes: ImageClasses, index: int, images: range) -> Pixels:
    return np.stack([classes.image(index, image) for image in images])


def _memory(comparison: _Comparison | None) -> str:
    title = "Nearest training images"
    if comparison is None:
        return f"<h2>{title}</h2>\n<p>No unseen class has more images than one sample takes: nothing to compare.</p>"
    ours, real = (n.distances.quantile(0.5) for n in (comparison.nearest_to_generated, comparison.nearest_to_real))
    rows = [
        (f"nearest to {what}", f"{n.distances.min():.3f}", f"{n.distances.quantile(0.5):.3f}")
        for what, n in (
            ("generated images", comparison.nearest_to_generated),
            ("real images of the same classes", comparison.nearest_to_real),
        )
    ]
    picture = nearest_picture(comparison.generated, comparison.nearest_to_generated)
    explanation = (
        "Above: images generated of unseen classes; below each, of all the images that were trained on and their "
        f"mirror images, the one nearest to it. Generated images are {ours / real:.2f} times as far from it as real "
        "ones of these classes are: well below 1 the generator repeats what it was trained on. Distance is the mean "
        "absolute difference of pixels on [−1, 1] at 32², 0 for a copy."
    )
    numbers = table(["distance", "smallest", "median"], rows)
    return f"{figure(title, png(picture))}<p>{escape(explanation)}</p>\n{numbers}"


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
    defaults = {field.name: field.default for field in dataclasses.fields(TrainOptions)}
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
