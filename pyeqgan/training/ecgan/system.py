"""ECGAN in training: pairs of images and label maps, and pictures of layouts that are kept apart."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Mapping
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from pyeqgan.data import Unreadable, to_uint8
from pyeqgan.data.layouts import (
    EMBEDDED,
    LayoutBatch,
    LayoutSampler,
    coloured,
    instance_edges,
    open_layouts,
    prefetch_layouts,
)
from pyeqgan.errors import UserError
from pyeqgan.models import ECGAN, ECGANConfig, ECGANGenerator, ECGANOutput
from pyeqgan.options import ECGANOptions
from pyeqgan.options.train_ecgan import WEIGHTS
from pyeqgan.training.checkpoint import Checkpoint
from pyeqgan.training.ecgan.losses import LossWeights
from pyeqgan.training.ecgan.perceptual import PerceptualDistance
from pyeqgan.training.ecgan.step import discriminator_step, generate, generator_step
from pyeqgan.training.pictures import image_grid
from pyeqgan.training.system import Player, Turn, opening_data

BETAS = (0.0, 0.9)  # SPADE's, with its two rates (TTUR)
SAMPLES = 6


class ECGANSystem:
    """The four networks of an :class:`~pyeqgan.models.ECGAN`; see `System`.

    The generator runs once a step, before the discriminator's turn, and its graph serves both players.

    Args:
        options: of the run.

    Raises:
        UserError: the data cannot be read, or the networks not be built.
    """

    sharded = ("generator", "discriminator")

    def __init__(self, options: ECGANOptions) -> None:
        with opening_data(options):
            self._split = open_layouts(
                options.data,
                image_size=(options.image_height, options.image_width),
                num_classes=options.num_classes,
                ignore_index=options.ignore_index,
            )
        train = self._split.train
        data = options.data if options.data == EMBEDDED else str(Path(options.data).resolve())
        self.options = dataclasses.replace(options, data=data)
        self.config = model_config(options, train.num_classes)
        self.players = {
            "discriminator": Player(("discriminator", "segmenter"), self._discriminator),
            "generator": Player(("generator", "projection"), self._generator),
        }
        self._weights = loss_weights(options)
        self.unreadable = Unreadable(strict=options.strict_data)
        self._sampler = LayoutSampler(
            train,
            batch_size=options.batch_size,
            seed=options.seed,
            flip=options.flip,
            zoom=options.zoom,
            with_instances=options.instance_edges,
            unreadable=self.unreadable,
        )
        self._perceptual: PerceptualDistance | None = None
        if options.perceptual_weight:
            self._perceptual = PerceptualDistance(None if options.weights is None else Path(options.weights))
        self._made: ECGANOutput | None = None

    @property
    def about(self) -> dict[str, Any]:
        """The networks' configuration, the classes, how label files name them, and the number of pairs."""
        train = self._split.train
        return {
            "model": self.config.to_dict(),
            "classes": list(train.class_names),
            "coding": dataclasses.asdict(train.coding),
            "images": [len(train)],
        }

    def build(self) -> dict[str, nn.Module]:
        """See `System`."""
        model = ECGAN(self.config)
        return {name: getattr(model, name) for name in ("generator", "discriminator", "projection", "segmenter")}

    def optimizer(self, name: str, network: nn.Module) -> Optimizer:
        """See `System`."""
        learns_with_generator = name in self.players["generator"].networks
        rate = self.options.generator_rate if learns_with_generator else self.options.discriminator_rate
        return Adam(network.parameters(), rate, BETAS, fused=True)

    def batches(self, start: int, stop: int, rows: slice) -> Generator[LayoutBatch, None, None]:
        """See `System`."""
        self._sampler.rows = rows
        return prefetch_layouts(self._sampler, start, stop, depth=self.options.prefetch, workers=self.options.workers)

    def like(self, step: int) -> int:
        """See `System`: all are alike."""
        return 0

    def drawn(self, networks: Mapping[str, nn.Module], rng: torch.Generator, rows: slice) -> None:
        """See `System`: nothing."""

    def draw(self, generator: nn.Module) -> Image.Image | None:
        """Rows of layouts of the test half (of the training half, where there is none), edges, images, refined images,
        and the real images."""
        if not self._shown:
            return None
        images, labels, *things = (np.stack(maps) for maps in zip(*self._shown, strict=True))
        outlines = torch.from_numpy(instance_edges(things[0])[:, None]) if things else None
        painter = cast(ECGANGenerator, generator)
        output = painter.generate(torch.from_numpy(labels), outlines)
        rows = [list(coloured(labels))]
        for maps in output.modalities.values():
            if not maps.isfinite().all():
                raise UserError("training stopped: generated images are not finite")
            rows.append(list(to_uint8(maps)))
        return image_grid([*rows, list(images)])

    def check_continuation(self, checkpoint: Checkpoint) -> None:
        """See `System`."""
        if any(checkpoint.about[name] != self.about[name] for name in ("classes", "coding", "images")):
            run, data = self.options.output, self.options.data
            raise UserError(f"cannot resume {run}: the layouts of {data} are not what they were")

    def _discriminator(self, networks: Mapping[str, nn.Module], batch: LayoutBatch, turn: Turn) -> dict[str, Tensor]:
        self._made = generate(networks["generator"], batch, autocast=turn.autocast)
        return discriminator_step(
            networks["discriminator"],
            networks["segmenter"],
            self._made,
            batch,
            weights=self._weights,
            group=turn.group,
            backward=turn.backward,
            autocast=turn.autocast,
        )

    def _generator(self, networks: Mapping[str, nn.Module], batch: LayoutBatch, turn: Turn) -> dict[str, Tensor]:
        output, self._made = self._made, None
        assert output is not None, "the discriminator's turn comes first"
        if self._perceptual is not None:
            self._perceptual.to(batch.images.device)
        return generator_step(
            networks["discriminator"],
            networks["segmenter"],
            networks["projection"],
            output,
            batch,
            weights=self._weights,
            group=turn.group,
            perceptual=self._perceptual,
            rng=turn.rng,
            backward=turn.backward,
            autocast=turn.autocast,
        )

    @cached_property
    def _shown(self) -> list[list[Any]]:
        """Image (H,W,3), labels (H,W) and, if the generator takes them, instances (H,W) of the first pairs."""
        layouts = self._split.test if len(self._split.test) else self._split.train

        def read(index: int) -> list[Any]:
            return [*layouts.pair(index), *([layouts.instances(index)] if self.options.instance_edges else [])]

        return list(islice(self.unreadable.readable(read, len(layouts)), SAMPLES))


def model_config(options: ECGANOptions, num_classes: int) -> ECGANConfig:
    """The networks that the options describe, for `num_classes` labels; UserError if they cannot be built."""
    try:
        return ECGANConfig(
            num_classes=num_classes,
            image_height=options.image_height,
            image_width=options.image_width,
            width=options.width,
            upsamplings=options.upsamplings,
            instance_edges=options.instance_edges,
            modules=options.modules,
            norm=options.norm,
        )
    except ValueError as error:
        raise UserError(str(error)) from error


def loss_weights(options: ECGANOptions) -> LossWeights:
    """The losses that the options describe; UserError if none is left for an image."""
    try:
        return LossWeights(
            **{name: getattr(options, f"{name}_weight") for name in WEIGHTS},
            similarity_stride=options.similarity_stride,
            contrast=options.contrast,
            contrast_pixels=options.contrast_pixels,
            contrast_rows=options.contrast_rows,
        )
    except ValueError as error:
        raise UserError(str(error)) from error
