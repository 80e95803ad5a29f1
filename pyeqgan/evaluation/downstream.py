"""Downstream: whether a classifier of the unseen classes gains from generated images of them."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from pyeqgan.data import ImageClasses, to_tensor
from pyeqgan.data.images import Pixels
from pyeqgan.evaluation.bootstrap import over_seeds
from pyeqgan.evaluation.classify import augmented, read_images
from pyeqgan.evaluation.features import BATCH, FEATURES, FeatureNetwork
from pyeqgan.evaluation.generators import Generate, draw_images
from pyeqgan.evaluation.result import Downstream
from pyeqgan.evaluation.trial import plan_class
from pyeqgan.evaluation.variants import shuffled
from pyeqgan.telling import Progress

REPEATS = 5


@dataclass(frozen=True)
class DownstreamConfig:
    """How the classifier is fine-tuned. The defaults take about 6 s of one core a training at 32² (ours)."""

    generated_per_class: int = 30
    steps: int = 100
    batch_size: int = 32
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    validate_every: int = 25


def classify_downstream(
    generate: Generate,
    unseen: ImageClasses,
    network: FeatureNetwork,
    *,
    shots: int,
    references_per_class: int = 10,
    repeats: int = REPEATS,
    seed: int = 0,
    config: DownstreamConfig | None = None,
    progress: Progress | None = None,
) -> Downstream:
    """Fine-tune a classifier of the seen classes on the unseen ones, with and without generated images.

    LoFGAN's experiment (ICCV 2021, augmentation for classification): a residual network that knows the seen classes
    is fine-tuned on a few images of each unseen class, or on these and images generated from them, and tested on
    others. The references are trained on; of the rest every second image chooses the step (by accuracy on it), the
    others test: 10, 15 and 15 of Flowers' 40. Each repeat shuffles the images, and draws generated ones, batches and
    the new layer anew; the two trainings of a repeat differ in their images alone, and take as many steps.

    The network is our feature network and not the paper's ResNet (ours): it is trained on the seen classes already,
    made for small images, and few enough parameters for ten images a class. So compare the difference, not the
    accuracies, with published ones.

    Args:
        generate: the generator.
        unseen: at least two classes.
        network: trained on the seen classes; left as it is.
        shots: images each generated one is made of.
        references_per_class: images of each class that are trained on and generated from.
        repeats: seeds.
        seed: of the first repeat.
        config: of the fine-tuning.
        progress: told after every training.

    Raises:
        UserError: a class that is too small, or a generator that returns NaN.
        ValueError: fewer than two classes.
    """
    if len(unseen) < 2:
        raise ValueError(f"classify_downstream: unseen: expected at least 2 classes, got {len(unseen)}")
    config = config or DownstreamConfig()
    accuracies: list[list[float]] = [[], []]
    for repeat in range(repeats):
        parts = _parts(generate, shuffled(unseen, seed + repeat), shots, references_per_class, seed + repeat, config)
        for kind, training in enumerate((parts["train"], parts["train"] + parts["generated"])):
            tuned = _fine_tuned(network, training, parts["validation"], len(unseen), seed + repeat, config)
            accuracies[kind].append(_accuracy(tuned, parts["test"]))
            if progress is not None:
                progress("training classifiers of unseen classes", 2 * repeat + kind + 1, 2 * repeats)
    without, with_generated = accuracies
    return Downstream(
        over_seeds(without, (0.0, 1.0)),
        over_seeds(with_generated, (0.0, 1.0)),
        over_seeds([b - a for a, b in zip(without, with_generated, strict=True)], (-1.0, 1.0)),
        repeats,
        1 / len(unseen),
        {name: len(part.labels) for name, part in parts.items()},
    )


@dataclass(frozen=True)
class _Labelled:
    """Images uint8 (n,S,S,3) and their classes (n,)."""

    images: Pixels
    labels: NDArray[np.int64]

    def __add__(self, other: _Labelled) -> _Labelled:
        return _Labelled(np.concatenate([self.images, other.images]), np.concatenate([self.labels, other.labels]))


def _parts(
    generate: Generate, unseen: ImageClasses, shots: int, references: int, seed: int, config: DownstreamConfig
) -> dict[str, _Labelled]:
    """Images to train on, generated ones, images to validate with and to test with, of all classes."""
    found: dict[str, list[Pixels]] = {"train": [], "generated": [], "validation": [], "test": []}
    for c, name in enumerate(unseen.class_names):
        plan = plan_class(name, unseen.count(c), shots=shots, references=references)
        real = read_images(unseen, c, plan.references)
        count = config.generated_per_class
        found["train"].append(real)
        found["generated"].append(draw_images(generate, real, count, seed=seed, key=(c, 0), class_name=name))
        found["validation"].append(read_images(unseen, c, plan.fit))
        found["test"].append(read_images(unseen, c, plan.held_out))
    return {
        part: _Labelled(np.concatenate(images), np.repeat(np.arange(len(images)), [len(i) for i in images]))
        for part, images in found.items()
    }


def _fine_tuned(
    network: FeatureNetwork,
    training: _Labelled,
    validation: _Labelled,
    classes: int,
    seed: int,
    config: DownstreamConfig,
) -> FeatureNetwork:
    """A copy of the network with a new last layer, trained; as it was at the step that validates best."""
    tuned = copy.deepcopy(network)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tuned.head = nn.Linear(FEATURES, classes).to(network.centre.device)
    optimizer = torch.optim.AdamW(tuned.parameters(), config.learning_rate, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.steps)
    rng = np.random.default_rng(seed)
    best, state = -1.0, copy.deepcopy(tuned.state_dict())
    for step in range(1, config.steps + 1):
        tuned.train()
        rows = rng.integers(len(training.labels), size=config.batch_size)
        logits = tuned(augmented(training.images[rows], rng).to(network.centre.device))
        loss = F.cross_entropy(logits, torch.from_numpy(training.labels[rows]).to(logits.device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % config.validate_every == 0 or step == config.steps:
            accuracy = _accuracy(tuned, validation)
            if accuracy > best:
                best, state = accuracy, copy.deepcopy(tuned.state_dict())
    tuned.load_state_dict(state)
    return tuned


@torch.no_grad()
def _accuracy(network: FeatureNetwork, part: _Labelled) -> float:
    network.eval()
    right = 0
    for start in range(0, len(part.labels), BATCH):
        images = to_tensor(part.images[start : start + BATCH]).to(network.centre.device)
        labels = torch.from_numpy(part.labels[start : start + BATCH]).to(images.device)
        right += int((network(images).argmax(1) == labels).sum())
    return right / len(part.labels)
