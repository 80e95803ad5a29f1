"""The protocol: few references of each unseen class in, images out, and how they compare with real and trivial ones."""

from __future__ import annotations

import platform
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

import pyeqgan
from pyeqgan.data import Split
from pyeqgan.errors import UserError
from pyeqgan.evaluation.classify import FeatureConfig, Progress, check_seen
from pyeqgan.evaluation.feature_cache import feature_network
from pyeqgan.evaluation.folder import make_room
from pyeqgan.evaluation.generators import Generate, copy_reference, pixel_mean
from pyeqgan.evaluation.report import write_report
from pyeqgan.evaluation.result import NOTE, EvaluationResult
from pyeqgan.evaluation.scores import differences, score
from pyeqgan.evaluation.trial import Trial, plan_class


def evaluate_generator(
    generate: Generate,
    split: Split,
    *,
    output: Path,
    shots: int,
    fakes_per_class: int = 128,
    references_per_class: int = 10,
    seed: int = 0,
    device: str | torch.device = "cpu",
    progress: Progress | None = None,
    force: bool = False,
    features: FeatureConfig | None = None,
) -> EvaluationResult:
    """Evaluate a generator on the unseen classes, beside copying, the pixel mean and real images.

    LoFGAN's protocol (references, remaining real images, 128 images a class, pooled Fréchet distance) with a feature
    network of our own, see `result.METRICS` for what each number shows. Every image is rounded to 8 bits and passes
    the network once. `output` then holds `metrics.json`, `samples.png`, `metrics.png` (if matplotlib is installed)
    and the feature network, which a later evaluation in the same folder finds again.

    Args:
        generate: the generator; it draws `shots` of the references it is given for each image. Called twice a class:
            with all references, and with the first `shots` alone to see what it makes of the same ones.
        split: the feature network learns the seen classes, the generator is tested on the unseen.
        output: a folder; made if missing.
        shots: images that each generated one is made of; also for the pixel mean.
        fakes_per_class: images generated per class.
        references_per_class: the first so many images of a class, at least `shots`.
        seed: of everything drawn, and of the feature network. The same seed gives the same numbers on one machine.
        device: where the feature network runs.
        progress: told what is being done.
        force: replace an earlier evaluation in `output`.
        features: how the feature network is trained; by default 200 steps with `seed`.

    Raises:
        UserError: a number out of range, a class that is too small, a generator that returns NaN, a damaged feature
            network, or a folder that cannot be written or holds an evaluation.
        TypeError, ValueError: `generate` returns something other than `Generate` says.
    """
    _check(split, shots, fakes_per_class, references_per_class, seed)
    unseen = split.unseen
    names = unseen.class_names
    plans = [
        plan_class(name, unseen.count(c), shots=shots, references=references_per_class) for c, name in enumerate(names)
    ]
    make_room(output, force=force)
    config = FeatureConfig(seed=seed) if features is None else features
    network, network_file = feature_network(split.seen, config, output, device=torch.device(device), progress=progress)
    generators = {"generator": generate, "copy": copy_reference, "mean": pixel_mean(shots)}
    trial = Trial(unseen, network, generators, shots, fakes_per_class, seed)
    for c, plan in enumerate(plans):
        trial.run(c, plan)
        if progress is not None:
            progress("evaluating unseen classes", c + 1, len(plans))

    scores = {name: score(name, images, trial.real, names, seed=seed) for name, images in trial.images.items()}
    result = EvaluationResult(
        note=NOTE,
        settings={
            "shots": shots,
            "fakes_per_class": fakes_per_class,
            "references_per_class": references_per_class,
            "seed": seed,
            "device": str(device),
            "image_size": unseen.image_size,
            "feature_training": asdict(config),
        },
        versions={
            "pyeqgan": pyeqgan.__version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        feature_network={
            "file": network_file.name,
            "seen_classes": len(split.seen),
            "held_out_accuracy": float(network.accuracy),
            "chance": 1 / len(split.seen),
        },
        classes={
            name: {field: len(images) for field, images in vars(plan).items()}
            for name, plan in zip(names, plans, strict=True)
        },
        scores=scores,
        generator_minus_copy=differences(scores["generator"], scores["copy"], seed=seed),
    )
    write_report(output, result, trial.samples)
    return result


def _check(split: Split, shots: int, fakes_per_class: int, references_per_class: int, seed: int) -> None:
    for name, value, least in (
        ("shots", shots, 1),
        ("fakes per class", fakes_per_class, 1),
        ("references per class", references_per_class, shots),
        ("seed", seed, 0),
    ):
        if value < least:
            raise UserError(f"{name} {value}, expected at least {least}")
    if not len(split.unseen):
        raise UserError("no unseen classes to evaluate on, expected at least 1")
    if split.seen.image_size != split.unseen.image_size:
        sizes = f"{split.seen.image_size} and {split.unseen.image_size}"
        raise ValueError(f"split: expected seen and unseen images of one size, got {sizes}")
    check_seen(split.seen)
