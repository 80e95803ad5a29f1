"""What the page tells of an EqGAN alone: what it was trained on, and whether it repeats it."""

from __future__ import annotations

import dataclasses
from html import escape

import numpy as np
from torch import Tensor

from pyeqgan.data import ImageClasses, Split, to_tensor, to_uint8
from pyeqgan.data.images import Pixels
from pyeqgan.errors import UserError
from pyeqgan.models import EqGANGenerator
from pyeqgan.options import EqGANOptions, ReportOptions
from pyeqgan.pages import figure, table
from pyeqgan.report.nearest import Nearest, nearest_images
from pyeqgan.report.pictures import nearest_picture
from pyeqgan.telling import Progress
from pyeqgan.trained.eqgan import averaged_generator, data_of
from pyeqgan.training.checkpoint import Checkpoint
from pyeqgan.training.device import resolve_device
from pyeqgan.training.pictures import png

CLASSES = 4


def summary(config: EqGANOptions, checkpoint: Checkpoint) -> str:
    """The data, their size, the batch, and the generator that learns from them."""
    parameters = sum(parameter.numel() for parameter in averaged_generator(checkpoint).parameters())
    return (
        f"{len(checkpoint.about['classes'])} classes of {config.data}, at {config.image_size}², "
        f"{config.batch_size} episodes of {config.shots} images a step, a generator of {parameters / 1e6:.2f} million "
        "parameters"
    )


def memory(checkpoint: Checkpoint, options: ReportOptions, progress: Progress | None) -> str:
    """A section: generated images of unseen classes and the training images nearest to them."""
    generator = averaged_generator(checkpoint).to(resolve_device(options.device))
    return _memory(_compare(generator, _data(checkpoint, options), options, progress))


def _data(checkpoint: Checkpoint, options: ReportOptions) -> Split:
    try:
        seen = checkpoint.about["options"]["seen_classes"]
        return data_of(checkpoint, options.data, seen)
    except UserError as error:
        raise UserError(f"{error} (--samples 0 does without the data)") from error


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
