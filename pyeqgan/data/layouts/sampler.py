"""Batches of pairs with their edges, the same for the same seed and step."""

from __future__ import annotations

import functools
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyeqgan.data.ahead import steps_ahead
from pyeqgan.data.episodes import to_tensor
from pyeqgan.data.layouts.edges import THRESHOLDS, Thresholds, canny, instance_edges, opencv
from pyeqgan.data.layouts.images import LayoutImages, View
from pyeqgan.data.unreadable import Unreadable
from pyeqgan.errors import UserError

MOST_ZOOM = 16
SUBSTITUTES = 2  # the sequence that they are drawn from; 0 and 1 have the orders and the batches


@dataclass(frozen=True)
class LayoutBatch:
    """B pairs and their edges."""

    images: Tensor
    """float32 (B,3,H,W) in [-1,1]."""
    labels: Tensor
    """int64 (B,H,W) in [0,num_classes), -1 where a pixel has no class."""
    edges: Tensor
    """float32 (B,1,H,W), of the images: 1 on an edge, else -1."""
    instance_edges: Tensor | None = None
    """float32 (B,1,H,W): 1 where two instances touch, else 0; None unless asked for."""


class LayoutSampler:
    """Draws batches of `batch_size` pairs.

    The batch of a step depends on (seed, step) alone: a resumed run sees what the uninterrupted one would have seen.
    Every pair is drawn once before one is drawn again, each time in another order; a batch may end one round and
    begin the next. Of the drawn rows only `rows` are read: the processes of a run take theirs from the same draw.

    Image, labels and instances are seen alike: from 1 to `zoom` times nearer, evenly spread, at a random place of the
    picture, or for `zoom` 1 in the middle; mirrored left to right with probability 1/2 if `flip`. Edges are those of
    the image as it is then.

    Args:
        images: the pairs.
        batch_size: B.
        seed: of the draws.
        flip: mirror.
        zoom: how much nearer at most, 1 to 16.
        rows: of the batch.
        thresholds: of Canny.
        with_instances: batches have the edges of the instances.
        unreadable: if given, remembers pairs of which a file cannot be read, whose places others take, not of the same
            batch if there are more; which ones depends on (seed, step), the place and the files.

    Raises UserError: batch size, seed or zoom out of range, no pairs, instances asked for that are not known, or OpenCV
    not installed.
    """

    def __init__(
        self,
        images: LayoutImages,
        *,
        batch_size: int,
        seed: int,
        flip: bool = True,
        zoom: float = 1.0,
        rows: slice = slice(None),
        thresholds: Thresholds = THRESHOLDS,
        with_instances: bool = False,
        unreadable: Unreadable | None = None,
    ) -> None:
        for name, value, least in (("batch size", batch_size, 1), ("seed", seed, 0)):
            if value < least:
                raise UserError(f"{name} {value}, expected at least {least}")
        if not 1 <= zoom <= MOST_ZOOM:
            raise UserError(f"zoom {zoom:g}, expected 1 to {MOST_ZOOM}")
        if len(images) == 0:
            raise UserError("no layouts to draw from, expected at least 1")
        if with_instances and not images.has_instances:
            raise UserError("instance edges were asked for, but these layouts have no instance maps")
        opencv()
        self.images = images
        self.batch_size = batch_size
        self.seed = seed
        self.flip = flip
        self.zoom = zoom
        self.rows = rows
        self.thresholds = thresholds
        self.with_instances = with_instances
        self.unreadable = unreadable
        self._order = functools.lru_cache(maxsize=4)(self._shuffle)  # threads are at neighbouring steps

    def batch(self, step: int) -> LayoutBatch:
        """The batch of one step, step ≥ 0.

        UserError if a pair cannot be read; with `unreadable`, if no other can either.
        """
        drawn = self._draw(step)
        avoid = [draw.pair for draw in drawn]
        maps = []
        for row in range(self.batch_size)[self.rows]:
            found = self._maps(drawn[row], avoid, np.random.SeedSequence(self.seed, spawn_key=(SUBSTITUTES, step, row)))
            maps.append([drawn[row].turn(map) for map in found])
        images, labels, *things = (np.stack(maps_of_kind) for maps_of_kind in zip(*maps, strict=True))
        edges = canny(images, self.thresholds)[:, None]
        outlines = torch.from_numpy(instance_edges(things[0])[:, None]) if things else None
        return LayoutBatch(to_tensor(images), torch.from_numpy(labels), torch.from_numpy(edges), outlines)

    def _maps(self, draw: _Draw, avoid: list[int], seed: np.random.SeedSequence) -> list[NDArray[Any]]:
        """Image, labels and, if asked for, instances of a drawn pair, or of another in its place."""

        def read(index: int) -> list[NDArray[Any]]:
            instances = [self.images.instances(index, draw.view)] if self.with_instances else []
            return [*self.images.pair(index, draw.view), *instances]

        if self.unreadable is None:
            return read(draw.pair)
        return self.unreadable.read(read, draw.pair, len(self.images), avoid=avoid, seed=seed, of="pairs")[1]

    def _draw(self, step: int) -> list[_Draw]:
        """The whole batch of a step."""
        if step < 0:
            raise ValueError(f"step {step}, expected at least 0")
        rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(1, step)))
        draws = []
        for place, chances in enumerate(rng.random((self.batch_size, 4)).tolist(), step * self.batch_size):
            nearness, x, y, coin = chances
            time, rank = divmod(place, len(self.images))
            view = View(1 + (self.zoom - 1) * nearness, x, y) if self.zoom > 1 else View()
            draws.append(_Draw(int(self._order(time)[rank]), view, self.flip and coin < 0.5))
        return draws

    def _shuffle(self, time: int) -> NDArray[np.int64]:
        """The order in which all pairs are drawn for the `time`th time."""
        rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(0, time)))
        return rng.permutation(len(self.images))


def prefetch_layouts(
    sampler: LayoutSampler, start: int, stop: int, *, depth: int = 3, workers: int = 1
) -> Generator[LayoutBatch, None, None]:
    """The batches of steps start, start + 1, …, stop - 1, prepared ahead as `steps_ahead` describes."""
    return steps_ahead(sampler.batch, start, stop, depth=depth, workers=workers, name="layouts")


class _Draw(NamedTuple):
    """A pair and how it is seen."""

    pair: int
    view: View
    mirrored: bool

    def turn(self, picture: NDArray[Any]) -> NDArray[Any]:
        """A picture (H,W,...), mirrored left to right or as it is."""
        return picture[:, ::-1] if self.mirrored else picture
