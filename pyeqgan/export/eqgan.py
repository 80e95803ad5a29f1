"""EqGAN's generator as a function of tensors: every random choice is an input of it."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

from pyeqgan.export.function import TensorFunction
from pyeqgan.models import EqGANGenerator, FusionPlan

LEAST_DYNAMIC_SHOTS = 3

USAGE = """Neither pyeqgan nor anything of it is needed. What the generator draws by chance is an input:

```python
import numpy as np
import {runtime}

rng, B, K = np.random.default_rng(0), 4, {shots}
images = np.zeros((B, K, 3, {size}, {size}), np.float32)  # yours, in [-1, 1]: K images of one class in each row
shares = 1 - rng.random((B, K))
inputs = {{
    "images": images,
    "weights": (shares / shares.sum(1, keepdims=True)).astype(np.float32),  # of each image
    "base": rng.integers(K, size=B),  # the image whose layout is kept
}}
for side, count in {grids}.items():  # how many positions of a grid are fused, and which
    inputs[f"positions_{{side}}"] = rng.random((B, side * side)).argsort(1)[:, :count]

{call}  # (B,3,{size},{size}) in [-1, 1]
```

B is free{free}."""


class PlannedGenerator(nn.Module):
    """A generator as a function of tensors alone: the images and the fields of a :class:`FusionPlan`."""

    def __init__(self, generator: EqGANGenerator) -> None:
        super().__init__()
        self.generator = generator
        self.sides = list(generator.sample_plan(1, 1).positions)

    def forward(self, images: Tensor, weights: Tensor, base: Tensor, *positions: Tensor) -> Tensor:
        """Images (B,3,S,S) from images (B,K,3,S,S), weights (B,K), base (B,) and, for each grid, positions (B,M)."""
        plan = FusionPlan(weights, base, dict(zip(self.sides, positions, strict=True)))
        generated: Tensor = self.generator(images, plan=plan).images
        return generated


def as_function(generator: EqGANGenerator, shots: int | None) -> TensorFunction:
    """A copy of the generator: "images", "weights", "base", "positions_8" and so on → "image" (B,3,S,S).

    B is free, and so is K from 3 on, unless ``shots`` says what it is.
    """
    module = PlannedGenerator(copy.deepcopy(generator).cpu().eval().requires_grad_(False))
    side, dtype = generator.config.image_size, next(generator.parameters()).dtype
    # Sizes of 1 would be taken for fixed, and so would those that a K below 3 leaves.
    plan = generator.sample_plan(2, shots or LEAST_DYNAMIC_SHOTS, device=torch.device("cpu"))
    images = torch.zeros(2, plan.weights.shape[1], 3, side, side, dtype=dtype)
    batch = Dim("batch", min=1)
    rows: dict[int, Any] = {0: batch} if shots else {0: batch, 1: Dim("shots", min=LEAST_DYNAMIC_SHOTS)}
    positions = tuple({0: batch} for _ in plan.positions)
    return TensorFunction(
        module,
        (images, plan.weights, plan.base, *plan.positions.values()),
        (rows, rows, {0: batch}, *([positions] if positions else [])),
        ["images", "weights", "base", *(f"positions_{side}" for side in plan.positions)],
        ["image"],
    )


def usage(generator: EqGANGenerator, shots: int | None, runtime: str, call: str) -> str:
    """How the exported function is called, in Markdown."""
    return USAGE.format(
        runtime=runtime,
        call=call,
        shots=shots or max(generator.config.shots, LEAST_DYNAMIC_SHOTS),
        size=generator.config.image_size,
        grids={side: positions.shape[1] for side, positions in generator.sample_plan(1, 1).positions.items()},
        free="" if shots else f", and K from {LEAST_DYNAMIC_SHOTS} on",
    )
