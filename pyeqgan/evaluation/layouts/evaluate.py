"""An evaluation of painted layouts: layouts of the test half in, images out; how they compare with real and trivial."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from pyeqgan.data.layouts import LayoutSplit
from pyeqgan.errors import UserError
from pyeqgan.evaluation.folder import room
from pyeqgan.evaluation.inception import InceptionFeatures
from pyeqgan.evaluation.layouts.painter import Paint, mean_colours
from pyeqgan.evaluation.layouts.protocol import LayoutProtocol
from pyeqgan.evaluation.layouts.report import write_report
from pyeqgan.evaluation.layouts.result import NOTE, LayoutEvaluation
from pyeqgan.evaluation.layouts.scores import Target, differences, edges_everywhere, over_segmenters, score
from pyeqgan.evaluation.layouts.segmenter import Segmenter
from pyeqgan.evaluation.layouts.training import segmenter
from pyeqgan.evaluation.layouts.trial import Looks, Sample, Trial
from pyeqgan.evaluation.lpips import LPIPS
from pyeqgan.evaluation.report import MOST_ROWS
from pyeqgan.evaluation.result import versions
from pyeqgan.telling import Progress


def evaluate_layouts(
    paint: Paint,
    split: LayoutSplit,
    protocol: LayoutProtocol,
    *,
    output: Path,
    weights: Path | None = None,
    device: str | torch.device = "cpu",
    progress: Progress | None = None,
    force: bool = False,
    subject: Mapping[str, Any] | None = None,
) -> LayoutEvaluation:
    """Evaluate a painter of layouts on the test half, beside class mean colours and real images.

    See `result.METRICS` for what each number shows. Every image is rounded to 8 bits. `output` then holds
    `metrics.json`, `classes.csv`, `samples.png`, `metrics.png` (if matplotlib is installed) and the segmenters, which
    a later evaluation in the same folder finds again.

    Args:
        paint: the painter, see `Paint`; called once for every batch of layouts.
        split: the segmenter and the mean colours learn the training half, the painter is tested on the other.
        protocol: what is measured.
        output: a folder; made if missing.
        weights: a folder of published weights, see `find_weights`.
        device: where the networks run.
        progress: told what is being done.
        force: replace an earlier evaluation in `output`.
        subject: what is evaluated, JSON, to be kept with the result: of a run its step and weights.

    Raises:
        UserError: too few pairs, halves that do not fit, weights that are missing or wrong, a library that is not
            installed, a painter that returns NaN, a damaged segmenter, or a folder that cannot be written or holds an
            evaluation.
        TypeError, ValueError: `paint` returns something other than `Paint` says.
    """
    _check(split)
    device = torch.device(device)
    inception = InceptionFeatures(weights, device=device) if protocol.inception else None
    perceptual = LPIPS(protocol.lpips, weights, device=device) if protocol.lpips else None
    with room(output, force=force):
        segmenters, files = _segmenters(split, protocol, output, device, progress)
        trial = Trial(
            split.test,
            paint,
            mean_colours(split.train),
            segmenters,
            protocol.tolerance,
            protocol.thresholds,
            inception,
            perceptual,
        )
        indices = _spread(len(split.test), protocol.most_images)
        looks, samples = _looks(trial, indices, protocol.batch_size, progress)
        target = Target(looks["real"].features, looks["real"].inception)
        # The test images are at no distance from themselves: as many of the training half stand for real ones.
        others = _spread(len(split.train), len(indices))
        features = dataclasses.replace(trial, pairs=split.train).features(others)
        looks["real"] = dataclasses.replace(looks["real"], features=features[0], inception=features[1])
        names = split.test.class_names
        pixels = looks["real"].counts[:, 0, :, 2].sum(0).tolist()
        result = LayoutEvaluation(
            note=NOTE,
            settings={
                **asdict(protocol),
                "device": str(device),
                "image_size": list(split.test.image_size),
                "subject": subject,
            },
            versions=versions(),
            segmenter={"files": files, "pairs": len(split.train)},
            classes={name: {"pixels": count} for name, count in zip(names, pixels, strict=True)},
            images=len(indices),
            scores={name: score(seen, target, names, seed=protocol.seed) for name, seen in looks.items()},
            generator_minus_painter=differences(looks["generator"], looks["painter"], target, seed=protocol.seed),
            edges_everywhere=edges_everywhere(looks["generator"]),
            segmenters={name: over_segmenters(seen, target) for name, seen in looks.items()}
            if protocol.repeats > 1
            else None,
        )
        write_report(output, result, samples)
        return result


def _segmenters(
    split: LayoutSplit, protocol: LayoutProtocol, output: Path, device: torch.device, progress: Progress | None
) -> tuple[list[Segmenter], list[str]]:
    """As many as there are repeats, each of its own seed, and their files' names."""
    found, files = [], []
    for repeat in range(protocol.repeats):
        config = dataclasses.replace(protocol.segmenter_training, seed=protocol.seed + repeat)
        network, file = segmenter(split.train, config, output, device=device, progress=progress)
        found.append(network)
        files.append(file.name)
    return found, files


def _looks(
    trial: Trial, indices: Sequence[int], batch_size: int, progress: Progress | None
) -> tuple[dict[str, Looks], list[Sample]]:
    """What was seen of every painter, and the first samples."""
    parts: dict[str, list[Looks]] = {}
    samples: list[Sample] = []
    for start in range(0, len(indices), batch_size):
        batch = indices[start : start + batch_size]
        looks, shown = trial.run(batch)
        for name, seen in looks.items():
            parts.setdefault(name, []).append(seen)
        samples += shown[: MOST_ROWS - len(samples)]
        if progress is not None:
            progress("painting test layouts", start + len(batch), len(indices))
    return {name: Looks.joined(seen) for name, seen in parts.items()}, samples


def _spread(count: int, most: int | None) -> list[int]:
    """At most so many of `count` indices, evenly spread."""
    chosen = count if most is None else min(count, most)
    return [i * count // chosen for i in range(chosen)]


def _check(split: LayoutSplit) -> None:
    train, test = split.train, split.test
    if not len(test):
        raise UserError("no test pairs to evaluate on, expected at least 1")
    for what, a, b in (
        ("classes", list(train.class_names), list(test.class_names)),
        ("image size", train.image_size, test.image_size),
    ):
        if a != b:
            raise UserError(f"{what} of the training and of the test half differ: {a} and {b}")
