"""Random tensors for the tests: fresh seeds, printed when a test fails, and every memory layout an op may meet."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
LAYOUTS = ("contiguous", "channels_last", "sliced", "expanded", "offset", "transposed")

# Batch 0 and 1, one pixel, primes, H != W, just off a vector of 16, channels off every vector width.
IMAGE_SHAPES = (
    (2, 3, 4, 5),
    (1, 1, 1, 1),
    (2, 17, 7, 13),
    (1, 16, 33, 16),
    (3, 5, 1, 40),
    (1, 20, 37, 2),
    (1, 33, 15, 17),
    (0, 3, 4, 4),
)


def seed_everything(seed: int | None = None) -> int:
    """Seed torch with a fresh seed (or the one given) and print it: pytest shows it when the test fails."""
    seed = random.SystemRandom().randrange(2**31) if seed is None else seed
    print(f"seed {seed}")
    torch.manual_seed(seed)
    return seed


def random_image(shape: Sequence[int], dtype: torch.dtype, layout: str = "contiguous") -> Tensor:
    """A random (B,C,H,W) of the given values' distribution, laid out in one of LAYOUTS."""
    batch, channels, height, width = shape
    if layout == "sliced":  # every second channel of a larger image, without its first row
        return _normal((batch, 2 * channels, height + 1, width), dtype)[:, ::2, 1:]
    if layout == "expanded":  # one image (or one channel) seen several times
        return _normal((1, channels, height, width), dtype).expand(batch, channels, height, width)
    if layout == "offset":  # begins in the middle of its storage
        return _normal((batch + 1, channels, height, width), dtype)[1:]
    if layout == "transposed":  # neither NCHW nor NHWC
        return _normal((batch, channels, width, height), dtype).transpose(2, 3)
    x = _normal(shape, dtype)
    return x.contiguous(memory_format=torch.channels_last) if layout == "channels_last" else x


def random_labels(shape: Sequence[int], classes: int = 4) -> Tensor:
    """Labels (B,H,W) of images of a shape, some of them -1."""
    return torch.randint(-1, classes, (shape[0], *shape[2:]))


def random_probabilities(
    shape: Sequence[int], dtype: torch.dtype, layout: str = "contiguous", sharpness: float = 1.0
) -> Tensor:
    """A softmax over channels in the dense layouts; in others positive numbers of any sum."""
    if layout in ("contiguous", "channels_last"):
        p = random_image(shape, torch.float64).mul(sharpness).softmax(1).to(dtype)
        return p.contiguous(memory_format=getattr(torch, layout.replace("contiguous", "contiguous_format")))
    x = random_image(shape, dtype, layout)
    (x if x._base is None else x._base).mul_(sharpness).sigmoid_().div_(shape[1] ** 0.5)
    return x


def _normal(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    return torch.randn(tuple(shape), dtype=torch.float64).to(dtype)


def leaf(x: Tensor) -> Tensor:
    """The same tensor, in the same layout, as a leaf that wants a gradient."""
    return x.detach().requires_grad_()
