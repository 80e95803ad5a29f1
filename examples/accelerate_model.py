"""Swap our kernels into a model that knows nothing of them: what is swapped, what is left, what it gains.

For example ``python examples/accelerate_model.py --channels 64 --size 16``.
"""

import argparse
import copy
import statistics
import time

import torch
from torch import nn

from pyeqgan.patch import accelerate


def up(i: int, o: int) -> nn.Sequential:
    """An upsampling block as many generators have it."""
    conv = nn.Conv2d(i, o, 3, padding=1, padding_mode="reflect")
    return nn.Sequential(nn.Upsample(scale_factor=2), conv, nn.BatchNorm2d(o), nn.LeakyReLU(0.2))


def seconds(model: nn.Module, x: torch.Tensor) -> float:
    """One forward and backward pass, in processor time."""
    start = time.process_time()
    model(x).square().mean().backward()
    return time.process_time() - start


parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
parser.add_argument("--channels", type=int, default=64, help="of the input (default: %(default)s)")
parser.add_argument("--size", type=int, default=16, help="of its maps in pixels (default: %(default)s)")
parser.add_argument("--rounds", type=int, default=9, help="of measuring (default: %(default)s)")
options = parser.parse_args()
torch.set_num_threads(1)
c, x = options.channels, torch.randn(4, options.channels, options.size, options.size)

model = nn.Sequential(up(c, c), up(c, c // 2), nn.Conv2d(c // 2, 3, 5, padding=2), nn.Tanh())
original = copy.deepcopy(model)
print(accelerate(model, verify=True, inputs=(x,)))  # its undo() would take everything back

pairs = [(seconds(model, x), seconds(original, x)) for _ in range(options.rounds + 1)][1:]
ours, theirs = (statistics.median(times) for times in zip(*pairs, strict=True))
print(f"a step takes {ours * 1e3:.1f} ms instead of {theirs * 1e3:.1f} ms: {ours / theirs:.2f} of it")
