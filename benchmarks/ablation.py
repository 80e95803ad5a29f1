"""ECGAN on the embedded landscapes with no, single-scale and multi-scale contrast, over seeds: what it is worth.

Each run is trained and evaluated by the commands that anybody has, in a folder of its own; what is done already is not
done again, so that it may be interrupted, and several processes may share the runs:

  python -m pyeqgan.benchmarks.ablation --output ablation --runs none-0 single-0 multi-0
  python -m pyeqgan.benchmarks.ablation --output ablation --table benchmarks/results/ecgan.json
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import statistics
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from pyeqgan.evaluation.layouts import LayoutEvaluation, read_layout_evaluation
from pyeqgan.options import ECGANOptions, EvaluateOptions
from pyeqgan.trained import evaluate
from pyeqgan.training.run import train

CONTRASTS, SEEDS = ("none", "single", "multi"), (0, 1, 2)
METRICS = ("miou", "accuracy", "own_edges", "real_edges", "frechet")
TRAINING = {
    "image_height": 64,
    "image_width": 64,
    "width": 0.125,
    "upsamplings": 4,
    "batch_size": 4,
    "generator_rate": 1e-3,
    "discriminator_rate": 1e-3,
    "ema_decay": 0.99,
    "contrast_pixels": 64,
    "checkpoint_every": 200,
    "sample_every": 200,
}


def work(output: Path, name: str, steps: int) -> None:
    """Train and evaluate one run, or what of it is left."""
    contrast, seed = name.split("-")
    run, evaluation = output / name, output / name / "evaluation"
    options = {**TRAINING, "contrast": contrast, "seed": int(seed), "steps": steps}
    resume = (run / "config.yaml").exists()
    train(ECGANOptions(run, resume=resume, **options), Console())  # type: ignore[arg-type]
    if not (evaluation / "metrics.json").exists():
        evaluation.mkdir(exist_ok=True)
        for file in output.glob("*/evaluation/segmenter_*.safetensors"):  # all are looked at by one segmenter
            if not (evaluation / file.name).exists():
                shutil.copy(file, evaluation / file.name)
        evaluate(EvaluateOptions(run, evaluation), print)


def value(result: LayoutEvaluation, painter: str, metric: str) -> float:
    """An estimate without its interval."""
    estimate = result.scores[painter].estimates[metric]
    assert estimate is not None
    return estimate.value


def table(output: Path, steps: int, file: Path) -> None:
    """Write all values to a file, and print means over the seeds, with the smallest and the largest."""
    results = {
        contrast: [read_layout_evaluation(output / f"{contrast}-{seed}" / "evaluation") for seed in SEEDS]
        for contrast in CONTRASTS
    }
    values = {
        contrast: {metric: [value(result, "generator", metric) for result in found] for metric in METRICS}
        for contrast, found in results.items()
    }
    first = results[CONTRASTS[0]][0]
    beside = {name: {metric: value(first, name, metric) for metric in METRICS} for name in ("painter", "real")}
    kept = {"steps": steps, "seeds": SEEDS, "training": TRAINING, "generator": values, "beside": beside}
    file.write_text(json.dumps({**kept, "versions": first.versions}, indent=1) + "\n")
    print("| contrast | " + " | ".join(METRICS) + " |\n|---" + "|---" * len(METRICS) + "|")
    for contrast, by_metric in values.items():
        cells = [f"{statistics.mean(v):.3f} ({min(v):.3f} to {max(v):.3f})" for v in by_metric.values()]
        print(f"| {contrast} | " + " | ".join(cells) + " |")
    for name, estimates in beside.items():
        print(f"| {name} | " + " | ".join(f"{estimates[metric]:.3f}" for metric in METRICS) + " |")


def main(arguments: Sequence[str] | None = None) -> None:
    """Do some runs, all of them unless told otherwise, or make the table of them."""
    names = [f"{contrast}-{seed}" for seed, contrast in itertools.product(SEEDS, CONTRASTS)]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--runs", nargs="+", choices=names, default=names, metavar="RUN", help=", ".join(names))
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--table", type=Path, help="do no run: print the table, and keep its values in this file")
    told = parser.parse_args(arguments)
    if told.table:
        table(told.output, told.steps, told.table)
        return
    told.output.mkdir(parents=True, exist_ok=True)
    for name in told.runs:
        work(told.output, name, told.steps)


if __name__ == "__main__":
    main()
