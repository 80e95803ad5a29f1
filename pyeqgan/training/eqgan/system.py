"""EqGAN in training: K-shot episodes of seen classes, and pictures of unseen ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Mapping
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from pyeqgan.data import (
    Episode,
    EpisodeSampler,
    ImageClasses,
    Split,
    Unreadable,
    open_data,
    prefetch,
    to_tensor,
    to_uint8,
)
from pyeqgan.data.classes import EMBEDDED
from pyeqgan.errors import UserError
from pyeqgan.models import EqGAN, EqGANConfig, EqGANGenerator
from pyeqgan.models.eqgan.fusion import FusionPlan
from pyeqgan.options import EqGANOptions
from pyeqgan.training.checkpoint import Checkpoint
from pyeqgan.training.eqgan.losses import LossWeights
from pyeqgan.training.eqgan.step import discriminator_step, generator_step
from pyeqgan.training.pictures import Pixels, beside, image_grid
from pyeqgan.training.system import Player, Turn, opening_data

BETAS = (0.5, 0.999)  # LoFGAN's
SAMPLE_CLASSES, SAMPLES = 4, 6


class EqGANSystem:
    """Generator and discriminator of an :class:`~pyeqgan.models.EqGAN`; see `System`.

    Args:
        options: of the run.
        split: the data; by default those that the options name.

    Raises:
        UserError: the data cannot be read, or the networks not be built.
    """

    sharded = ("discriminator",)

    def __init__(self, options: EqGANOptions, split: Split | None = None) -> None:
        with opening_data(options):
            size, seen = options.image_size, options.seen_classes
            self._split = split or open_data(options.data, image_size=size, seen_classes=seen)
        data = options.data if options.data == EMBEDDED else str(Path(options.data).resolve())
        self.options = dataclasses.replace(options, data=data, seen_classes=len(self._split.seen))
        self.config = model_config(options, len(self._split.seen))
        self.players = {
            "discriminator": Player(("discriminator",), self._discriminator),
            "generator": Player(("generator",), self._generator),
        }
        self._weights = loss_weights(options)
        self.unreadable = Unreadable(strict=options.strict_data)
        self._sampler = EpisodeSampler(
            self._split.seen,
            batch_size=options.batch_size,
            shots=options.shots,
            seed=options.seed,
            flip=options.flip,
            unreadable=self.unreadable,
        )

    @property
    def about(self) -> dict[str, Any]:
        """The networks' configuration, and the seen classes with their numbers of images."""
        seen = self._split.seen
        return {"model": self.config.to_dict(), "classes": list(seen.class_names), "images": counts(seen)}

    def build(self) -> dict[str, nn.Module]:
        """See `System`."""
        model = EqGAN(self.config)
        return {"generator": model.generator, "discriminator": model.discriminator}

    def optimizer(self, name: str, network: nn.Module) -> Optimizer:
        """See `System`."""
        options = self.options
        return Adam(network.parameters(), options.learning_rate, BETAS, weight_decay=options.weight_decay, fused=True)

    def batches(self, start: int, stop: int, rows: slice) -> Generator[Episode, None, None]:
        """See `System`."""
        self._sampler.rows = rows
        return prefetch(self._sampler, start, stop, depth=self.options.prefetch, workers=self.options.workers)

    def like(self, step: int) -> int:
        """See `System`: with the penalty, or without."""
        return 0 if self._weights.penalty_at(step) else 1

    def drawn(self, networks: Mapping[str, nn.Module], rng: torch.Generator, rows: slice) -> dict[str, FusionPlan]:
        """The fusion plans of a step, by what they are for: these rows of those of the whole batch."""
        generator = cast(EqGANGenerator, networks["generator"])
        wanted = ["discriminator", "generator", *["other"] * bool(self._weights.mode_seeking)]
        return {name: generator.sample_plan(self.options.batch_size, generator=rng, rows=rows) for name in wanted}

    def draw(self, generator: nn.Module) -> Image.Image | None:
        """The first images of some unseen classes (of seen ones, where none has enough), and samples beside them."""
        given, generated = [], []
        for references in self._references:
            images = cast(EqGANGenerator, generator).generate(to_tensor(references), SAMPLES, seed=self.options.seed)
            if not images.isfinite().all():
                raise UserError("training stopped: generated images are not finite")
            given.append(list(references))
            generated.append(list(to_uint8(images)))
        return beside(image_grid(given), image_grid(generated)) if given else None

    def check_continuation(self, checkpoint: Checkpoint) -> None:
        """See `System`."""
        before, now = checkpoint.about, self.about
        if before["classes"] != now["classes"] or before.get("images", now["images"]) != now["images"]:
            run, data = self.options.output, self.options.data
            raise UserError(f"cannot resume {run}: the seen classes of {data} are not what they were")

    def _discriminator(self, networks: Mapping[str, nn.Module], batch: Episode, turn: Turn) -> dict[str, Tensor]:
        return discriminator_step(
            networks["generator"],
            networks["discriminator"],
            batch.images,
            batch.labels,
            weights=self._weights,
            step=turn.step,
            processes=turn.processes,
            plan=turn.drawn["discriminator"],
            backward=turn.backward,
            autocast=turn.autocast,
        )

    def _generator(self, networks: Mapping[str, nn.Module], batch: Episode, turn: Turn) -> dict[str, Tensor]:
        return generator_step(
            networks["generator"],
            networks["discriminator"],
            batch.images,
            batch.labels,
            weights=self._weights,
            plan=turn.drawn["generator"],
            other_plan=turn.drawn.get("other"),
            backward=turn.backward,
            autocast=turn.autocast,
        )

    @cached_property
    def _references(self) -> list[Pixels]:
        """The first K images of the first unseen classes that have as many, (K,S,S,3) each; of seen ones else."""
        for classes in (self._split.unseen, self._split.seen):
            of_classes = (self._first_images(classes, index) for index in range(len(classes)))
            found = list(islice((images for images in of_classes if len(images) == self.options.shots), SAMPLE_CLASSES))
            if found:
                return [np.stack(images) for images in found]
        return []

    def _first_images(self, classes: ImageClasses, index: int) -> list[Pixels]:
        """The first K images of a class that can be read; fewer if there are not as many."""
        shots, count = self.options.shots, classes.count(index)
        if count < shots:
            return []
        return list(islice(self.unreadable.readable(partial(classes.image, index), count), shots))


def model_config(options: EqGANOptions, num_classes: int) -> EqGANConfig:
    """The networks that the options describe, for `num_classes` seen classes; UserError if they cannot be built."""
    try:
        return EqGANConfig(
            num_classes=num_classes,
            image_size=options.image_size,
            shots=options.shots,
            width=options.width,
            fusion=options.fusion,
            fusion_rate=options.fusion_rate,
            equalization=options.equalization,
            detail=options.detail,
        )
    except ValueError as error:
        raise UserError(str(error)) from error


def loss_weights(options: EqGANOptions) -> LossWeights:
    """The losses that the options describe."""
    return LossWeights(
        classification=options.classification_weight,
        penalty=options.penalty,
        penalty_weight=options.penalty_weight,
        penalty_every=options.penalty_every,
        reconstruction=options.reconstruction_weight,
        consistency=options.consistency_weight,
        mode_seeking=options.mode_seeking_weight,
    )


def counts(classes: ImageClasses) -> list[int]:
    """Images of each class: by their names and these a checkpoint knows its data again."""
    return [classes.count(index) for index in range(len(classes))]
