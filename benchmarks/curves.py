"""ECGAN's training curve by the fused losses and by their oracles: ``python -m pyeqgan.benchmarks.curves``.

The same run from the same weights over the same batches, in float64. A GAN's training multiplies every rounding by ten
every few steps, until the curves part; how soon says something only beside a control: the fused run again, with one
weight moved by a unit in its last place.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import torch

from pyeqgan import backends
from pyeqgan.benchmarks import machine
from pyeqgan.benchmarks.ablation import TRAINING
from pyeqgan.options import ECGANOptions
from pyeqgan.training.ecgan.system import ECGANSystem
from pyeqgan.training.engine import Engine, launch

LOSSES = ("contrastive_loss", "similarity_loss")
BOUNDS = (1e-9, 1e-6, 1e-3)

Curve = list[dict[str, float]]


def curve(steps: int, *, oracles: bool = False, moved: bool = False) -> Curve:
    """The losses of every step.

    Args:
        steps: how many.
        oracles: compute those in LOSSES by their oracles, not as they are routed.
        moved: move one weight of the generator to the next number of its dtype.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with tempfile.TemporaryDirectory() as output:
            system = ECGANSystem(ECGANOptions(Path(output), steps=steps, **TRAINING))  # type: ignore[arg-type]
            engine = Engine(system, launch("cpu", "32"))
        if moved:
            weight = next(engine.networks["generator"].parameters()).data.view(-1)[:1]
            weight.copy_(torch.nextafter(weight, weight + 1))
        found = []
        with backends.force("reference", *LOSSES) if oracles else nullcontext():
            for batch in system.batches(0, steps, slice(None)):
                wide = dataclasses.replace(batch, images=batch.images.double(), edges=batch.edges.double())
                found.append({name: float(loss) for name, loss in engine.advance(wide).items()})
    finally:
        torch.set_default_dtype(before)
    return found


def steps_within(bound: float, name: str, curve: Curve, other: Curve) -> int:
    """For how many steps a loss differs by no more than this share of its largest value."""
    largest = max(abs(losses[name]) for losses in curve)
    apart = (abs(a[name] - b[name]) > bound * largest for a, b in zip(curve, other, strict=True))
    return next((step for step, parted in enumerate(apart) if parted), len(curve))


def main(arguments: Sequence[str] | None = None) -> None:
    """Train three times, print for how long the curves agree, and keep them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--output", type=Path, required=True, help="file for the curves, JSON")
    told = parser.parse_args(arguments)
    fused = curve(told.steps)
    others = {"oracles": curve(told.steps, oracles=True), "moved": curve(told.steps, moved=True)}
    told.output.parent.mkdir(parents=True, exist_ok=True)
    about = {"environment": machine.environment(), "training": TRAINING, "oracles of": LOSSES}
    told.output.write_text(json.dumps({**about, "curves": {"fused": fused, **others}}) + "\n")
    heads = [f"{name}, within {bound:g}" for name in others for bound in BOUNDS]
    print("| loss | " + " | ".join(heads) + " |\n|---" + "|---" * len(heads) + "|")
    for name in fused[0]:
        cells = [str(steps_within(bound, name, fused, other)) for other in others.values() for bound in BOUNDS]
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
