"""What `pyeqgan.patch.accelerate` gains on networks it did not write: LoFGAN's, in a whole training step.

``python -m pyeqgan.benchmarks.accelerated --image-size 64 --batch 2 --width 0.5`` measures one problem on one thread.
A step is the discriminator's and the generator's losses, as published code computes them (gradient penalty at every
step, nothing shared), their gradients and Adam's updates; eager and accelerated networks take turns. The time is that
of the processor, which says the same as the clock on one thread and does not count what others on the machine take.
"""

from __future__ import annotations

import argparse
import copy
import random
import time

import torch
from torch import Tensor, nn

from pyeqgan.benchmarks import harness, lofgan_style, published
from pyeqgan.benchmarks.harness import OURS, TOLERANCE, Result
from pyeqgan.benchmarks.step import CLASSES, Problem, Step, gradient
from pyeqgan.patch import Report, accelerate
from pyeqgan.training.eqgan import LossWeights

WEIGHTS = LossWeights(reconstruction=0.0, consistency=0.0)


class Setting:
    """Networks and images of a problem."""

    def __init__(self, problem: Problem) -> None:
        torch.manual_seed(0)
        width = problem.width
        self.networks = nn.ModuleList([lofgan_style.Generator(width), lofgan_style.Discriminator(CLASSES, width)])
        self.images = torch.rand(problem.batch, problem.shots, 3, problem.image_size, problem.image_size) * 2 - 1
        self.labels = torch.randint(CLASSES, (problem.batch,))

    def accelerated(self) -> tuple[nn.ModuleList, Report]:
        """The same networks on our kernels, and what was swapped."""
        networks = copy.deepcopy(self.networks)
        return networks, accelerate(networks)

    def losses(self, networks: nn.ModuleList, part: int) -> dict[str, Tensor]:
        """The losses of the generator (0) or the discriminator (1), whose gradients are added up."""
        form = (published.generator_step, published.discriminator_step)[part]
        torch.manual_seed(0)
        random.seed(0)
        images = self.images.to(next(networks.parameters()).dtype)
        return form(networks[0], networks[1], images, self.labels, WEIGHTS)

    def step(self, networks: nn.ModuleList) -> Step:
        """A training step of both networks."""
        adams = [torch.optim.Adam(network.parameters(), 1e-4) for network in networks]

        def step() -> None:
            for part in (1, 0):
                for adam in adams:
                    adam.zero_grad()
                self.losses(networks, part)
                adams[part].step()

        return step

    def match_error(self) -> float:
        """The largest relative error of the accelerated losses and gradients against eager float64."""
        worst = 0.0
        for part in (0, 1):
            ours, truth = self.accelerated()[0], copy.deepcopy(self.networks).double()
            given, expected = self.losses(ours, part), self.losses(truth, part)
            pairs = [(given[name], expected[name]) for name in expected]
            pairs.append((gradient(ours[part]), gradient(truth[part])))
            worst = max(worst, *(float((a.double() - b).norm() / b.norm()) for a, b in pairs))
        return worst


def measure(problem: Problem, *, rounds: int = 9) -> Result:
    """One problem; no time where the accelerated networks do not match."""
    torch.set_num_threads(1)
    setting = Setting(problem)
    label = ("accelerate", "LoFGAN's training step", str(problem), "contiguous", 1, "D+G")
    error = setting.match_error()
    if not error < TOLERANCE:
        return Result(*label, {}, error, None, None, 0.0, 0.0)
    contenders = {OURS: setting.step(setting.accelerated()[0]), "eager": setting.step(copy.deepcopy(setting.networks))}
    seconds = harness.timed_by(time.process_time)
    times = harness.interleave(contenders, rounds=rounds, budget=600, seconds=seconds)
    timings = {name: harness.timing(seconds, None) for name, seconds in times.items()}
    ratio = timings[OURS].median / timings["eager"].median
    interval = harness.bootstrap_ratio(times[OURS], times["eager"])
    return Result(*label, timings, error, ratio, interval, 0.0, 0.0)


def main() -> int:
    """Measure one problem and print what was swapped and the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--width", type=float, default=0.5)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    problem = Problem(options.image_size, options.batch, options.width)
    print(Setting(problem).accelerated()[1])
    result = measure(problem, rounds=options.rounds)
    print(harness.line(result))
    return 0 if result.ratio is not None else 1


if __name__ == "__main__":
    raise SystemExit(main())
