"""Our kernels in a model that knows nothing of them.

    python examples/accelerate_model.py

Printed is what was swapped, what was left and why, and what a training step then takes: at these sizes about half of
the processor time of PyTorch's own layers, on one core of an Intel Xeon with AVX-512.
"""

import copy
import statistics
import time

import torch
import tyro
from torch import Tensor, nn

from pyeqgan.patch import accelerate


def up(inputs: int, outputs: int) -> nn.Sequential:
    """An upsampling block as many generators have it."""
    conv = nn.Conv2d(inputs, outputs, 3, padding=1, padding_mode="reflect")
    return nn.Sequential(nn.Upsample(scale_factor=2), conv, nn.BatchNorm2d(outputs), nn.LeakyReLU(0.2))


def seconds(model: nn.Module, x: Tensor) -> float:
    """One forward and backward pass, in processor time."""
    start = time.process_time()
    model(x).square().mean().backward()
    return time.process_time() - start


def main(channels: int = 64, size: int = 16, rounds: int = 9) -> None:
    """Accelerate a small generator, and measure both in turns."""
    torch.set_num_threads(1)
    x = torch.randn(4, channels, size, size)
    paint = nn.Conv2d(channels // 2, 3, 5, padding=2)
    model = nn.Sequential(up(channels, channels), up(channels, channels // 2), paint, nn.Tanh())
    original = copy.deepcopy(model)
    print(accelerate(model, verify=True, inputs=(x,)))  # its undo() would take everything back
    pairs = [(seconds(model, x), seconds(original, x)) for _ in range(rounds + 1)][1:]
    ours, theirs = (statistics.median(times) for times in zip(*pairs, strict=True))
    print(f"a step takes {ours * 1e3:.1f} ms instead of {theirs * 1e3:.1f} ms: {ours / theirs:.2f} of it")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
