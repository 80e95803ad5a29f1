"""What a launch is told of an image, and how many programs an image takes."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def strided(image: Tensor | None) -> tuple[Any, ...]:
    """An image and its strides; as many zeros where there is none."""
    return (None, 0, 0, 0, 0) if image is None else (image, *image.stride())


def blocks(image: Tensor, pixels: int) -> int:
    """Of so many pixels each."""
    return -(image.shape[2] * image.shape[3] // -pixels)


def groups(image: Tensor, channels: int) -> int:
    """Of so many channels each."""
    return -(image.shape[1] // -channels)


def over_image(image: Tensor) -> Any:
    """The grid of programs that take a block of CHANNELS × PIXELS each, as `_image.block_of_image` tells them apart."""

    def grid(meta: dict[str, int]) -> tuple[int]:
        return (image.shape[0] * groups(image, meta["CHANNELS"]) * blocks(image, meta["PIXELS"]),)

    return grid


def over_pixels(image: Tensor) -> Any:
    """The grid of programs that take all channels of PIXELS pixels each."""

    def grid(meta: dict[str, int]) -> tuple[int]:
        return (image.shape[0] * blocks(image, meta["PIXELS"]),)

    return grid
