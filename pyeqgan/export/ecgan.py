"""ECGAN's generator as a function of tensors: a layout to an image and its edges."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.nn.utils import parametrize

from pyeqgan.export.function import TensorFunction
from pyeqgan.models import ECGANGenerator

USAGE = """Neither pyeqgan nor anything of it is needed:

```python
import numpy as np
import {runtime}

B = 4
inputs = {{
    "labels": np.zeros((B, {height}, {width}), np.int64),  # yours: 0 to {last}, the classes below; -1 is none{outlines}
}}
{call}  # (B,3,{height},{width}) in [-1, 1]
```

B is free. A label that is out of range paints as none."""

OUTLINES = """
    "instance_edges": np.zeros((B, 1, {height}, {width}), np.float32),  # 1 at borders between instances"""


class PaintingGenerator(nn.Module):
    """A generator that returns its result, and its edges if it makes any."""

    def __init__(self, generator: ECGANGenerator) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, labels: Tensor, instance_edges: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """Images (B,3,H,W), and edges (B,3,H,W), from labels (B,H,W) and instance edges (B,1,H,W)."""
        output = self.generator(labels, instance_edges)
        return output.final if output.edges is None else (output.final, output.edges)


def as_function(generator: ECGANGenerator) -> TensorFunction:
    """A copy of the generator: "labels", perhaps "instance_edges" → "image", perhaps "edges"; B is free."""
    config, dtype = generator.config, next(generator.parameters()).dtype
    # Built anew: a copied module shares its class with the original, and spectral norm is part of the class.
    copied = ECGANGenerator(config).to(dtype)
    copied.load_state_dict(generator.state_dict())
    copied.eval().requires_grad_(False)
    for module in copied.modules():
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight")  # in eval mode the weight is a constant
    size = (config.image_height, config.image_width)
    arguments: tuple[Tensor, ...] = (torch.zeros(2, *size, dtype=torch.int64),)
    if config.instance_edges:
        arguments += (torch.zeros(2, 1, *size, dtype=dtype),)
    batch = Dim("batch", min=1)
    return TensorFunction(
        PaintingGenerator(copied),
        arguments,
        tuple({0: batch} for _ in arguments),
        ["labels", "instance_edges"][: len(arguments)],
        ["image", "edges"] if config.contains("edge") else ["image"],
    )


def usage(generator: ECGANGenerator, runtime: str, call: str) -> str:
    """How the exported function is called, in Markdown."""
    config = generator.config
    size = {"height": config.image_height, "width": config.image_width}
    outlines = OUTLINES.format(**size) if config.instance_edges else ""
    return USAGE.format(**size, runtime=runtime, call=call, last=config.num_classes - 1, outlines=outlines)
