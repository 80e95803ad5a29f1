"""Images that cannot be read, and those that take their place in a training run that is not to end for them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator
from typing import TypeVar

import numpy as np

from pyeqgan.data.images import UnreadableImageError
from pyeqgan.errors import UserError

Read = TypeVar("Read")


class Unreadable:
    """What has been found so far; threads may share it.

    Args:
        strict: be satisfied with no other image: the first that cannot be read is an error.
    """

    def __init__(self, *, strict: bool = False) -> None:
        self._strict = strict
        self._lines: dict[str, None] = {}
        self._told = 0
        self._lock = threading.Lock()

    def note(self, error: UnreadableImageError) -> None:
        """Remember an image by what is said of it; raises the error itself if it is to be strict."""
        if self._strict:
            raise error
        with self._lock:
            self._lines.setdefault(str(error))

    def new(self) -> list[str]:
        """What has been found since the last call: a line for each image, which names it."""
        with self._lock:
            lines = list(self._lines)[self._told :]
            self._told += len(lines)
        return lines

    def readable(self, read: Callable[[int], Read], count: int) -> Iterator[Read]:
        """Those of `count` images that can be read, one after another."""
        for index in range(count):
            try:
                image = read(index)
            except UnreadableImageError as error:
                self.note(error)
            else:
                yield image

    def read(
        self,
        read: Callable[[int], Read],
        index: int,
        count: int,
        *,
        avoid: Collection[int],
        seed: np.random.SeedSequence,
        of: str,
    ) -> tuple[int, Read]:
        """Read an image, or else another: which one depends on `seed` and on which can be read, on nothing else.

        Args:
            read: reads the image of an index.
            index: of the one that is wanted.
            count: how many there are.
            avoid: taken only if no other can be read.
            seed: of the order in which others are tried.
            of: what they are, for the error.

        Returns:
            The index of the image that was read, and the image.

        Raises:
            UserError: none can be read, or this one if it is to be strict.
        """
        try:
            return index, read(index)
        except UnreadableImageError as error:
            self.note(error)
            why = error
        order = np.random.default_rng(seed).permutation(count).tolist()
        for other in sorted(order, key=lambda place: place in avoid):
            try:
                if other != index:
                    return other, read(other)
            except UnreadableImageError as error:
                self.note(error)
        raise UserError(f"none of the {count} {of} can be read: {why}")
