"""A trained ECGAN: images and edges of label maps, and its evaluation on the layouts of a test half."""

from __future__ import annotations

from torch import Tensor

from pyeqgan.data.layouts import Coding, LayoutSplit, open_layouts
from pyeqgan.errors import UserError
from pyeqgan.evaluation.layouts import LayoutProtocol, SegmenterConfig, evaluate_layouts, write_page
from pyeqgan.models import ECGANConfig, ECGANGenerator
from pyeqgan.options import EvaluateOptions, GenerateOptions
from pyeqgan.telling import Progress, Report
from pyeqgan.trained.checkpoint import check_model, subject
from pyeqgan.trained.painting import paint
from pyeqgan.training.checkpoint import Checkpoint
from pyeqgan.training.run_folder import CURVES


def generate(
    checkpoint: Checkpoint,
    options: GenerateOptions,
    device: str,
    report: Report,
    progress: Progress | None = None,
) -> None:
    """Paint label maps; see `paint` for what is written.

    Args:
        checkpoint: with its part "ema".
        options: of the command.
        device: where to compute.
        report: called with a line for each thing worth knowing.
        progress: told what is being done.

    Raises:
        UserError: it is of another model, an option is, or `paint` raises it.
    """
    generator = averaged_generator(checkpoint)
    weights = str(subject(checkpoint)["weights"])
    paint(generator.to(device), Coding(**checkpoint.about["coding"]), weights, options, report, progress)


def evaluate(
    checkpoint: Checkpoint,
    options: EvaluateOptions,
    device: str,
    report: Report,
    progress: Progress | None = None,
) -> None:
    """Evaluate the generator on the test half of a data set; see `evaluate_layouts` for what is written.

    Args:
        checkpoint: with its part "ema".
        options: of the command.
        device: where to compute.
        report: called with a line for each thing worth knowing.
        progress: told what is being done.

    Raises:
        UserError: it is of another model, an option is, the data cannot be read or do not fit, or the folder cannot
            be written.
    """
    generator = averaged_generator(checkpoint)
    generator.to(device)

    split, wanted = data_of(checkpoint, options.data), generator.config.instance_edges
    if wanted and not split.test.has_instances:
        raise UserError(f"{checkpoint.path} was trained with --instance-edges; these layouts have no instance maps")

    report(f"evaluating {checkpoint.path}")

    def paint(labels: Tensor, outlines: Tensor | None) -> tuple[Tensor | None, Tensor, Tensor | None]:
        output = generator.generate(labels, outlines if wanted else None)
        return output.edges, output.images, output.refined

    result = evaluate_layouts(
        paint,
        split,
        LayoutProtocol(
            repeats=options.repeats or 1,
            inception=options.features == "inception",
            lpips=options.lpips,
            seed=options.seed,
            segmenter_training=SegmenterConfig(steps=options.feature_steps or SegmenterConfig.steps),
        ),
        output=options.output,
        weights=options.weights,
        device=device,
        progress=progress,
        force=options.force,
        subject=subject(checkpoint),
    )
    losses = options.checkpoint / CURVES
    page = write_page(options.output, result, pictures={"Losses of the training": losses} if losses.exists() else {})
    report(result.verdict())
    report(f"numbers and pictures: {page}")


def averaged_generator(checkpoint: Checkpoint) -> ECGANGenerator:
    """The generator of a checkpoint's part "ema", on the CPU in eval mode; UserError if it is of another model."""
    check_model(checkpoint, "ecgan")
    generator = ECGANGenerator(ECGANConfig.from_dict(checkpoint.about["model"]))
    generator.load_state_dict(checkpoint.parts["ema"])
    return generator.eval()


def data_of(checkpoint: Checkpoint, data: str | None = None) -> LayoutSplit:
    """The layouts to look at a generator with, by default those of its run.

    Raises:
        UserError: they cannot be read, or have other classes than the run's.
    """
    run = checkpoint.about["options"]
    split = open_layouts(
        data or run["data"],
        image_size=(run["image_height"], run["image_width"]),
        num_classes=run["num_classes"],
        ignore_index=run["ignore_index"],
    )
    if list(split.test.class_names) != checkpoint.about["classes"]:
        names = ", ".join(checkpoint.about["classes"])
        raise UserError(f"the layouts of {data or run['data']} have other classes than those trained on: {names}")
    return split
