"""K-shot episodes: batches of K images of one class, the same for the same seed and step."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyeqgan.data.ahead import steps_ahead
from pyeqgan.data.classes import ImageClasses
from pyeqgan.data.images import Pixels
from pyeqgan.data.unreadable import Unreadable
from pyeqgan.errors import UserError

SUBSTITUTES = 3  # the sequence of a step that they are drawn from; the engine has those of 1 and 2


def to_tensor(images: Pixels) -> Tensor:
    """Images uint8 (...,H,W,3) to float32 (...,3,H,W), 0 to 255 becoming -1 to 1. Copies; TypeError, ValueError."""
    if images.dtype != np.uint8:
        raise TypeError(f"to_tensor: images have dtype {images.dtype}, expected uint8")
    if images.ndim < 3 or images.shape[-1] != 3:
        raise ValueError(f"to_tensor: images have shape {images.shape}, expected (..., H, W, 3)")
    # NumPy, not torch: a prefetching thread must not start a second pool of torch's worker threads.
    planes = np.moveaxis(images, -1, -3).astype(np.float32, order="C")
    planes /= 127.5
    planes -= 1
    return torch.from_numpy(planes)


def to_uint8(images: Tensor) -> Pixels:
    """Images (...,3,H,W), any float dtype and device, to uint8 (...,H,W,3): clamped to [-1,1], rounded.

    Undoes `to_tensor` exactly. TypeError, ValueError (also for NaN, which has no colour).
    """
    if not images.is_floating_point():
        raise TypeError(f"to_uint8: images have dtype {images.dtype}, expected floating point")
    if images.ndim < 3 or images.shape[-3] != 3:
        raise ValueError(f"to_uint8: images have shape {tuple(images.shape)}, expected (..., 3, H, W)")
    if images.isnan().any():
        raise ValueError("to_uint8: images contain NaN")
    levels = images.detach().float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
    return levels.movedim(-3, -1).contiguous().cpu().numpy()


@dataclass(frozen=True)
class Episode:
    """A batch of B classes with K images each."""

    images: Tensor
    """float32 (B,K,3,S,S) in [-1,1]."""
    labels: Tensor
    """int64 (B,), class indices."""


class EpisodeSampler:
    """Draws episodes of `batch_size` classes with `shots` distinct images each.

    The episode of a step depends on (seed, step) alone: a resumed run sees what the uninterrupted one would have
    seen, and no two steps repeat each other. Within an episode a class returns only once all others have been
    drawn. `flip` mirrors each image left to right with probability 1/2. Of the drawn rows only `rows` are read: the
    processes of a run take theirs from the same draw.

    With `unreadable`, which then remembers it, an image that cannot be read gives its place to another of its class,
    not one of the row if there are others; which one depends on (seed, step), its place in the batch and the files.

    Raises UserError: batch size, shots or seed out of range, no classes, or a class with fewer than `shots` images.
    """

    def __init__(
        self,
        classes: ImageClasses,
        *,
        batch_size: int,
        shots: int,
        seed: int,
        flip: bool = True,
        rows: slice = slice(None),
        unreadable: Unreadable | None = None,
    ) -> None:
        for name, value, least in (("batch size", batch_size, 1), ("shots", shots, 1), ("seed", seed, 0)):
            if value < least:
                raise UserError(f"{name} {value}, expected at least {least}")
        if len(classes) == 0:
            raise UserError("no classes to draw from, expected at least 1")
        for index, name in enumerate(classes.class_names):
            if classes.count(index) < shots:
                raise UserError(
                    f"class {name!r} has {classes.count(index)} images, expected at least {shots} (shots {shots})"
                )
        self.classes = classes
        self.batch_size = batch_size
        self.shots = shots
        self.seed = seed
        self.flip = flip
        self.rows = rows
        self.unreadable = unreadable

    def episode(self, step: int) -> Episode:
        """The episode of one step, step ≥ 0.

        UserError if an image cannot be read; with `unreadable`, if no other of its class can either.
        """
        if step < 0:
            raise ValueError(f"step {step}, expected at least 0")
        rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(step,)))
        labels = self._draw_labels(rng)
        picks = [rng.choice(self.classes.count(label), self.shots, replace=False) for label in labels]
        mirrored = rng.random((self.batch_size, self.shots)) < 0.5 if self.flip else None
        mine = range(self.batch_size)[self.rows]
        images = np.stack([self._images(step, row, int(labels[row]), picks[row].tolist()) for row in mine])
        labels = labels[self.rows]
        if mirrored is not None:
            mirrored = mirrored[self.rows]
            images[mirrored] = images[mirrored][:, :, ::-1]
        return Episode(to_tensor(images), torch.from_numpy(labels))

    def _images(self, step: int, row: int, label: int, picks: list[int]) -> list[Pixels]:
        """The images of a row; `picks` then tells which they are."""

        def image(index: int) -> Pixels:
            return self.classes.image(label, index)

        if self.unreadable is None:
            return [image(index) for index in picks]
        count, of = self.classes.count(label), f"images of class {self.classes.class_names[label]!r}"
        found = []
        for shot, index in enumerate(picks):
            seed = np.random.SeedSequence(self.seed, spawn_key=(step, SUBSTITUTES, row, shot))
            picks[shot], pixels = self.unreadable.read(image, index, count, avoid=picks, seed=seed, of=of)
            found.append(pixels)
        return found

    def _draw_labels(self, rng: np.random.Generator) -> NDArray[np.int64]:
        rounds = -(-self.batch_size // len(self.classes))
        orders = [rng.permutation(len(self.classes)) for _ in range(rounds)]
        return np.concatenate(orders)[: self.batch_size].astype(np.int64)


def prefetch(
    sampler: EpisodeSampler, start: int, stop: int, *, depth: int = 3, workers: int = 1
) -> Generator[Episode, None, None]:
    """The episodes of steps start, start + 1, …, stop - 1, prepared ahead as `steps_ahead` describes."""
    return steps_ahead(sampler.episode, start, stop, depth=depth, workers=workers, name="episodes")
