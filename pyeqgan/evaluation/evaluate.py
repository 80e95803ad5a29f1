"""An evaluation: few references of each unseen class in, images out; how they compare with real and trivial ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from pyeqgan.data import Split
from pyeqgan.errors import UserError
from pyeqgan.evaluation.bootstrap import Estimate, over_seeds
from pyeqgan.evaluation.classify import check_seen
from pyeqgan.evaluation.downstream import REPEATS, classify_downstream
from pyeqgan.evaluation.feature_cache import feature_network
from pyeqgan.evaluation.features import FeatureNetwork
from pyeqgan.evaluation.folder import room
from pyeqgan.evaluation.generators import Generate, copy_reference, pixel_mean
from pyeqgan.evaluation.inception import InceptionFeatures
from pyeqgan.evaluation.lpips import LPIPS
from pyeqgan.evaluation.protocol import Protocol
from pyeqgan.evaluation.published import published
from pyeqgan.evaluation.report import write_report
from pyeqgan.evaluation.result import NOTES, Downstream, EvaluationResult, Scores, versions
from pyeqgan.evaluation.scores import differences, score
from pyeqgan.evaluation.trial import ClassPlan, Trial, plan_class
from pyeqgan.evaluation.variants import shuffled, with_replacement
from pyeqgan.telling import Progress


def evaluate_generator(
    generate: Generate,
    split: Split,
    protocol: Protocol,
    *,
    output: Path,
    weights: Path | None = None,
    device: str | torch.device = "cpu",
    progress: Progress | None = None,
    force: bool = False,
    subject: Mapping[str, Any] | None = None,
) -> EvaluationResult:
    """Evaluate a generator on the unseen classes, beside copying, the pixel mean and real images.

    See `result.METRICS` for what each number shows. Every image is rounded to 8 bits. `output` then holds
    `metrics.json`, `samples.png`, `metrics.png` (if matplotlib is installed) and, where one was trained, the feature
    network, which a later evaluation in the same folder finds again.

    Args:
        generate: the generator; it draws `shots` of the references it is given for each image. Called twice a class:
            with all references, and with the first `shots` alone to see what it makes of the same ones.
        split: the feature network learns the seen classes, the generator is tested on the unseen.
        protocol: what is measured.
        output: a folder; made if missing.
        weights: a folder of published weights, see `find_weights`.
        device: where the networks run.
        progress: told what is being done.
        force: replace an earlier evaluation in `output`.
        subject: what is evaluated, JSON, to be kept with the result: of a run its step and weights.

    Raises:
        UserError: a class that is too small, weights that are missing or wrong, a library that is not installed, a
            generator that returns NaN, a damaged feature network, or a folder that cannot be written or holds an
            evaluation.
        TypeError, ValueError: `generate` returns something other than `Generate` says.
    """
    _check(split, protocol)
    device, variant, seed = torch.device(device), protocol.variant, protocol.seed
    unseen = shuffled(split.unseen, seed) if variant.shuffled else split.unseen
    plans = [
        plan_class(name, unseen.count(c), shots=protocol.shots, references=protocol.references_per_class)
        for c, name in enumerate(unseen.class_names)
    ]
    inception = InceptionFeatures(weights, device=device, variant=variant) if protocol.features == "inception" else None
    perceptual = LPIPS(protocol.lpips, weights, device=device, variant=variant) if protocol.lpips else None
    with room(output, force=force):
        own, own_file = None, None
        if inception is None or protocol.downstream:
            own, own_file = feature_network(
                split.seen, protocol.feature_training, output, device=device, progress=progress
            )
        generators = {
            "generator": with_replacement(generate, protocol.shots) if variant.replacement else generate,
            "copy": copy_reference,
            "mean": pixel_mean(protocol.shots),
        }
        network = inception or own
        assert network is not None
        trial = Trial(unseen, network, generators, protocol.shots, protocol.fakes_per_class, seed, perceptual)
        scores = _scores(trial, plans, protocol, progress)
        result = EvaluationResult(
            note=NOTES[protocol.features],
            settings={**asdict(protocol), "device": str(device), "image_size": unseen.image_size, "subject": subject},
            versions=versions(),
            feature_network=_about(inception, own, own_file, split),
            classes={
                name: {field: len(images) for field, images in vars(plan).items()}
                for name, plan in zip(unseen.class_names, plans, strict=True)
            },
            scores=scores,
            generator_minus_copy=differences(scores["generator"], scores["copy"], seed=seed),
            draws=_draws(trial, plans, scores["generator"], protocol, progress),
            downstream=_downstream(generate, split, own, protocol, progress),
            published=published(split, shots=protocol.shots) if inception is not None else None,
        )
        write_report(output, result, trial.samples)
        return result


def _scores(trial: Trial, plans: list[ClassPlan], protocol: Protocol, progress: Progress | None) -> dict[str, Scores]:
    for c, plan in enumerate(plans):
        trial.run(c, plan)
        if progress is not None:
            progress("evaluating unseen classes", c + 1, len(plans))
    found = {}
    for name, images in trial.images.items():
        found[name] = score(
            name, images, trial.real, trial.unseen.class_names, seed=protocol.seed, variant=protocol.variant
        )
        if progress is not None:
            progress("drawing classes for the intervals", len(found), len(trial.images))
    return found


def _draws(
    trial: Trial, plans: list[ClassPlan], first: Scores, protocol: Protocol, progress: Progress | None
) -> dict[str, Estimate] | None:
    """The generator's numbers over several draws of its images, the first of which is already scored."""
    repeats = protocol.repeats or 1
    if repeats == 1:
        return None
    found = [first]
    for repeat in range(1, repeats):
        images = trial.again(plans, protocol.seed + repeat)
        names, variant = trial.unseen.class_names, protocol.variant
        found.append(
            score("generator", images, trial.real, names, seed=protocol.seed, variant=variant, intervals=False)
        )
        if progress is not None:
            progress("generating again", repeat, repeats - 1)
    values = {metric: [scores.estimates[metric] for scores in found] for metric in first.estimates}
    return {metric: over_seeds([e.value for e in es if e]) for metric, es in values.items() if all(es)}


def _downstream(
    generate: Generate, split: Split, own: FeatureNetwork | None, protocol: Protocol, progress: Progress | None
) -> Downstream | None:
    if not protocol.downstream or own is None:
        return None
    return classify_downstream(
        generate,
        split.unseen,
        own,
        shots=protocol.shots,
        references_per_class=protocol.references_per_class,
        repeats=protocol.repeats or REPEATS,
        seed=protocol.seed,
        progress=progress,
    )


def _about(
    inception: InceptionFeatures | None, own: FeatureNetwork | None, own_file: Path | None, split: Split
) -> dict[str, Any]:
    """What is told of the networks."""
    about: dict[str, Any] = {} if inception is None else {"file": inception.file.name}
    if own is not None and own_file is not None:
        about |= {
            "file" if inception is None else "downstream_file": own_file.name,
            "seen_classes": len(split.seen),
            "held_out_accuracy": float(own.accuracy),
            "chance": 1 / len(split.seen),
        }
    return about


def _check(split: Split, protocol: Protocol) -> None:
    if not len(split.unseen):
        raise UserError("no unseen classes to evaluate on, expected at least 1")
    if protocol.downstream and len(split.unseen) < 2:
        raise UserError("1 unseen class, expected at least 2 to train classifiers downstream")
    if split.seen.image_size != split.unseen.image_size:
        sizes = f"{split.seen.image_size} and {split.unseen.image_size}"
        raise ValueError(f"split: expected seen and unseen images of one size, got {sizes}")
    if protocol.features == "self" or protocol.downstream:
        check_seen(split.seen)
