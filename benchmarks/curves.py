"""ECGAN's training curve by the fused losses and by their oracles: ``python -m pyeqgan.benchmarks.curves``.

The same run twice, from the same weights over the same batches, in float64: there rounding stays small enough for the
curves to be compared step by step (in float32 Adam turns the sign of a rounding into a step of full size).
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

Curve = list[dict[str, float]]


def curve(steps: int, *, oracles: bool) -> Curve:
    """The losses of every step; those in LOSSES by their oracles or as they are routed."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with tempfile.TemporaryDirectory() as output:
            system = ECGANSystem(ECGANOptions(Path(output), steps=steps, **TRAINING))  # type: ignore[arg-type]
            engine = Engine(system, launch("cpu", "32"))
        found = []
        with backends.force("reference", *LOSSES) if oracles else nullcontext():
            for batch in system.batches(0, steps, slice(None)):
                wide = dataclasses.replace(batch, images=batch.images.double(), edges=batch.edges.double())
                found.append({name: float(loss) for name, loss in engine.advance(wide).items()})
    finally:
        torch.set_default_dtype(before)
    return found


def differences(ours: Curve, oracles: Curve) -> dict[str, list[float]]:
    """By loss, |ours − oracle| of every step over the largest value of the oracle's curve."""
    return {
        name: [abs(a[name] - b[name]) / max(abs(c[name]) for c in oracles) for a, b in zip(ours, oracles, strict=True)]
        for name in ours[0]
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Train twice, print how far the curves part, and keep them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--output", type=Path, required=True, help="file for both curves, JSON")
    told = parser.parse_args(arguments)
    curves = {name: curve(told.steps, oracles=name == "oracles") for name in ("fused", "oracles")}
    apart = differences(curves["fused"], curves["oracles"])
    told.output.parent.mkdir(parents=True, exist_ok=True)
    about = {"environment": machine.environment(), "training": TRAINING, "oracles of": LOSSES}
    told.output.write_text(json.dumps({**about, "curves": curves}) + "\n")
    print("| loss | first step | last step | largest difference, of the curve's largest value |\n|---|---|---|---|")
    for name, found in apart.items():
        first, last = curves["fused"][0][name], curves["fused"][-1][name]
        print(f"| {name} | {first:.4g} | {last:.4g} | {max(found):.1e} |")


if __name__ == "__main__":
    main()
