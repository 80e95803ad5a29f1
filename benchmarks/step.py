"""A whole training step beside the published form, eager and compiled: same weights, same images, same choices.

A step is both networks' losses, gradients and Adam's updates; ours also moves the generator's average. With the lazy
penalty it is the mean of one step with it and three without, against the published form with it at every step.
"""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from pyeqgan.benchmarks import harness, machine, published
from pyeqgan.benchmarks.harness import OURS, TOLERANCE, Result
from pyeqgan.models import EqGAN, EqGANConfig
from pyeqgan.training.ema import ExponentialMovingAverage
from pyeqgan.training.eqgan import LossWeights, discriminator_step, generator_step

CLASSES = 85  # of LoFGAN's flowers
LAZY = 4
PLAIN = "pyeqgan, no penalty"
VARIANTS = {"penalty at every step": 1, f"ours: penalty every {LAZY} steps": LAZY}

Step = Callable[[], object]


@dataclass(frozen=True)
class Problem:
    """The size of a training step."""

    image_size: int
    batch: int
    width: float
    shots: int = 3

    def __str__(self) -> str:
        return f"{self.image_size}², B {self.batch}, K {self.shots}, width {self.width:g}"


def problems(*, tiny: bool = False) -> list[Problem]:
    """Those the goals are set for; ``tiny``: one to try the tools."""
    return [Problem(32, 1, 0.125, 2)] if tiny else [Problem(64, 4, 0.5), Problem(128, 2, 0.5)]


class Setting:
    """Networks, images and choices of a problem, the same in every process."""

    def __init__(self, problem: Problem) -> None:
        torch.manual_seed(0)
        self.gan = EqGAN(EqGANConfig(CLASSES, problem.image_size, problem.shots, problem.width))
        self.images = torch.rand(problem.batch, problem.shots, 3, problem.image_size, problem.image_size) * 2 - 1
        self.labels = torch.randint(CLASSES, (problem.batch,))
        self.plan = self.gan.generator.sample_plan(problem.batch)

    def contender(self, name: str) -> Step:
        """A step of one contender, on networks and optimisers of its own."""
        gan = copy.deepcopy(self.gan)
        adams = [torch.optim.Adam(network.parameters(), 1e-4) for network in (gan.discriminator, gan.generator)]
        if name in (OURS, PLAIN):
            return self._ours(gan, adams, LossWeights(penalty="class" if name == OURS else "none"))
        return self._published(gan, adams, compiled=name == "torch.compile")

    def _ours(self, gan: EqGAN, adams: list[torch.optim.Adam], weights: LossWeights) -> Step:
        average = ExponentialMovingAverage(gan.generator)

        def step() -> None:
            for form, adam in zip((discriminator_step, generator_step), adams, strict=True):
                adam.zero_grad()
                form(gan.generator, gan.discriminator, self.images, self.labels, weights=weights, plan=self.plan)
                adam.step()
            average.update(gan.generator)

        return step

    def _published(self, gan: EqGAN, adams: list[torch.optim.Adam], *, compiled: bool) -> Step:
        networks = [gan.generator, gan.discriminator]
        if compiled:
            networks = [published.compiled(network) for network in networks]
        arguments = (*networks, self.images, self.labels, LossWeights(), self.plan)

        def step() -> None:
            with published.layers():
                for optimiser in adams:
                    optimiser.zero_grad()
                # torch does not compile double backward: the reals, whose penalty needs it, are judged eagerly.
                published.discriminator_step(*arguments, twice=gan.discriminator)
                adams[0].step()
                adams[1].zero_grad()
                published.generator_step(*arguments)
                adams[1].step()

        return step

    def match_error(self) -> float:
        """The largest relative error of our losses and gradients against the published form in float64."""
        ours, theirs = copy.deepcopy(self.gan), copy.deepcopy(self.gan).double()
        weights = LossWeights()
        worst = 0.0
        for form, reference, part in (
            (discriminator_step, published.discriminator_step, "discriminator"),
            (generator_step, published.generator_step, "generator"),
        ):
            if part == "generator":  # ours leaves the power iteration of spectral norm alone, theirs advances it
                theirs.load_state_dict(ours.state_dict())
                ours.discriminator.eval()
                theirs.discriminator.eval()
            for gan in (ours, theirs):
                gan.zero_grad()
            given = form(ours.generator, ours.discriminator, self.images, self.labels, weights=weights, plan=self.plan)
            plan = self.plan._replace(weights=self.plan.weights.double())
            with published.layers():
                expected = reference(
                    theirs.generator, theirs.discriminator, self.images.double(), self.labels, weights, plan
                )
            pairs = [(given[name], expected[name]) for name in expected]
            pairs.append((gradient(getattr(ours, part)), gradient(getattr(theirs, part))))
            worst = max(worst, *(float((a.double() - b).norm() / b.norm()) for a, b in pairs))
        return worst


def gradient(network: torch.nn.Module) -> Tensor:
    """All gradients of a network in one row."""
    return torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])


def measure(problem: Problem, threads: int, *, rounds: int = 9, compiled: bool = True) -> list[Result]:
    """One problem in every variant; no time where ours does not match."""
    torch.set_num_threads(threads)
    setting = Setting(problem)
    error = setting.match_error()
    labels = [("training step", variant, str(problem), "contiguous", threads, "D+G") for variant in VARIANTS]
    if not error < TOLERANCE:
        return [Result(*label, {}, error, None, None, 0.0, 0.0) for label in labels]
    torch.compiler.reset()
    names = [OURS, PLAIN, "eager", *["torch.compile"] * compiled]
    times = harness.interleave({name: setting.contender(name) for name in names}, rounds=rounds, budget=120)
    peaks = {name: peak_bytes(problem, name, threads) for name in names if name != PLAIN}
    results = []
    for label, every in zip(labels, VARIANTS.values(), strict=True):
        mixed = [(a + (every - 1) * b) / every for a, b in zip(times[OURS], times[PLAIN], strict=True)]
        seconds = {**times, OURS: mixed}
        timings = {name: harness.timing(seconds[name], peak) for name, peak in peaks.items()}
        best = min((name for name in timings if name != OURS), key=lambda name: timings[name].median)
        ratio = timings[OURS].median / timings[best].median
        interval = harness.bootstrap_ratio(mixed, seconds[best])
        results.append(Result(*label, timings, error, ratio, interval, 0.0, 0.0))
    return results


def peak_bytes(problem: Problem, name: str, threads: int) -> int | None:
    """How far a step grows a process of its own, above networks and optimisers; None where the system does not tell."""
    call = f"step.print_peak(step.Problem(**{asdict(problem)!r}), {name!r}, {threads})"
    command = [sys.executable, "-c", f"from pyeqgan.benchmarks import step; {call}"]
    told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()[-1]
    return None if told == "None" else int(told)


def print_peak(problem: Problem, name: str, threads: int) -> None:
    """What `peak_bytes` starts."""
    torch.set_num_threads(threads)
    step = Setting(problem).contender(name)
    step()
    print(machine.peak_bytes(step))
