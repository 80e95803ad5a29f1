"""Training the feature network on the seen classes, and recognising unseen ones by their nearest mean."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pyeqgan.data import ImageClasses, to_tensor
from pyeqgan.data.images import Pixels
from pyeqgan.errors import UserError
from pyeqgan.evaluation.features import FeatureNetwork
from pyeqgan.telling import Progress


@dataclass(frozen=True)
class FeatureConfig:
    """How a feature network is trained. The defaults take 10 to 20 s of one core at 64² (ours)."""

    steps: int = 200
    batch_size: int = 64
    learning_rate: float = 3e-3
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    seed: int = 0


def train_feature_network(
    seen: ImageClasses, config: FeatureConfig, *, device: torch.device, progress: Progress | None = None
) -> FeatureNetwork:
    """Train a classifier of the seen classes: AdamW, one cycle (Smith 2018), mirrored and shifted images.

    The last eighth of each class, at least one image, is held out for the network's accuracy and scale. Classes are
    drawn evenly. The same seed, thread count and CPU give the same network.

    Args:
        seen: at least two classes with at least two images each.
        config: of the training.
        device: where to train; the network stays there.
        progress: told after every step.

    Raises:
        UserError: too few classes or images, an image that cannot be read, or images that all look the same.
    """
    check_seen(seen)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = FeatureNetwork(seen.image_size, len(seen))
    network.to(device).train()
    optimizer = torch.optim.AdamW(network.parameters(), config.learning_rate, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.learning_rate, total_steps=config.steps)
    rng = np.random.default_rng(config.seed)
    for step in range(config.steps):
        images, labels = _batch(seen, config.batch_size, rng)
        logits = network(images.to(device))
        loss = F.cross_entropy(logits, labels.to(device), label_smoothing=config.label_smoothing)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if progress is not None:
            progress("training the feature network", step + 1, config.steps)
    _calibrate(network, seen)
    return network


def read_images(classes: ImageClasses, class_index: int, images: range) -> Pixels:
    """Some images of a class, uint8 (n,S,S,3)."""
    return np.stack([classes.image(class_index, index) for index in images])


def augmented(images: Pixels, rng: np.random.Generator) -> Tensor:
    """Images (n,S,S,3) as (n,3,S,S) in [-1,1], each mirrored or not, all shifted alike by up to S/8."""
    mirrored = rng.random(len(images)) < 0.5
    images = np.where(mirrored[:, None, None, None], images[:, :, ::-1], images)
    furthest = images.shape[1] // 8
    down, right = rng.integers(-furthest, furthest + 1, 2).tolist()
    return to_tensor(_shifted(images, down, right))


def recognised(features: Tensor, means: Tensor, class_index: int) -> float:
    """Share of the features (n,D) whose nearest row of `means` (classes,D) is that of `class_index`."""
    return float((torch.cdist(features, means).argmin(1) == class_index).double().mean())


def check_seen(seen: ImageClasses) -> None:
    """UserError unless there are two classes or more, of two images or more each."""
    if len(seen) < 2:
        raise UserError(f"{len(seen)} seen classes, expected at least 2 to train the feature network on")
    for index, name in enumerate(seen.class_names):
        if seen.count(index) < 2:
            raise UserError(f"seen class {name!r} has {seen.count(index)} images, expected at least 2")


def _training_count(seen: ImageClasses, class_index: int) -> int:
    """How many images of a seen class are trained on; the others are held out."""
    count = seen.count(class_index)
    return count - max(1, count // 8)


def _batch(seen: ImageClasses, size: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Images (size,3,S,S), augmented, and labels (size,)."""
    labels = rng.integers(len(seen), size=size)
    picks = [int(rng.integers(_training_count(seen, label))) for label in labels.tolist()]
    images = np.stack([seen.image(label, pick) for label, pick in zip(labels.tolist(), picks, strict=True)])
    return augmented(images, rng), torch.from_numpy(labels)


def _shifted(images: Pixels, down: int, right: int) -> Pixels:
    """Images (n,S,S,3) moved by some pixels, up or left if negative; what comes in is reflected."""
    rows, columns = images.shape[1:3]
    above, left = max(-down, 0), max(-right, 0)
    margins = ((0, 0), (max(down, 0), above), (max(right, 0), left), (0, 0))
    return np.pad(images, margins, mode="reflect")[:, above : above + rows, left : left + columns]


@torch.no_grad()
def _calibrate(network: FeatureNetwork, seen: ImageClasses) -> None:
    """Set the network's accuracy, centre and scale by the images held out."""
    features = [
        network.features(read_images(seen, c, range(_training_count(seen, c), seen.count(c)))) for c in range(len(seen))
    ]
    pooled = torch.cat(features)
    scale = (pooled - pooled.mean(0)).square().sum(1).mean().sqrt()
    if not scale > 0:
        raise UserError("the images of the seen classes all look the same to the feature network")
    logits = [network.head(f.to(network.centre)) for f in features]
    right = torch.cat([(rows.argmax(1) == c).double() for c, rows in enumerate(logits)])
    network.centre.copy_(pooled.mean(0))
    network.scale.copy_(scale)
    network.accuracy.copy_(right.mean())
