"""Training the segmenter on real pairs, and keeping it beside the evaluation."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pyeqgan.data.layouts import IGNORED, LayoutImages, LayoutSampler
from pyeqgan.errors import UserError
from pyeqgan.evaluation.feature_cache import load, save
from pyeqgan.evaluation.layouts.segmenter import CHANNELS, Segmenter
from pyeqgan.telling import Progress

FORMAT = 1
MOST_CALIBRATED = 256  # images that set centre and scale
MOST_HASHED = 64  # pairs that tell data sets apart


@dataclass(frozen=True)
class SegmenterConfig:
    """How a segmenter is trained. The defaults take 40 s of one core at 64² (ours)."""

    steps: int = 250
    batch_size: int = 16
    learning_rate: float = 3e-3
    weight_decay: float = 0.01
    seed: int = 0


def segmenter(
    pairs: LayoutImages,
    config: SegmenterConfig,
    folder: Path,
    *,
    device: torch.device,
    progress: Progress | None = None,
) -> tuple[Segmenter, Path]:
    """The segmenter of a configuration: read from `folder` if it is there, else trained and kept there.

    Its file, ``segmenter_<key>.safetensors``, is named by a hash of the configuration, the number of pairs, the names
    of the classes and some of the pairs; others may change unnoticed. It ends with a checksum of all it holds.

    Returns:
        The segmenter, in eval mode on `device`, and its file.

    Raises:
        UserError: the file is damaged, or cannot be written; or see `train_segmenter`.
    """
    path = folder / f"segmenter_{_key(pairs, config)}.safetensors"
    if path.exists():
        network = Segmenter(pairs.image_size, pairs.num_classes)
        network.load_state_dict(load(path, "segmenter"))
        return network.to(device).eval(), path
    network = train_segmenter(pairs, config, device=device, progress=progress).eval()
    save(path, network.state_dict())
    return network, path


def train_segmenter(
    pairs: LayoutImages, config: SegmenterConfig, *, device: torch.device, progress: Progress | None = None
) -> Segmenter:
    """Train a segmenter by cross entropy: AdamW, one cycle (Smith 2018), mirrored pairs, ignored pixels left out.

    The same seed, thread count and CPU give the same network.

    Args:
        pairs: real ones, of the training half.
        config: of the training.
        device: where to train; the network stays there.
        progress: told after every step.

    Raises:
        UserError: fewer than two pairs, a pair that cannot be read, or images that all look the same.
    """
    if len(pairs) < 2:
        raise UserError(f"{len(pairs)} training pairs, expected at least 2 to train the segmenter on")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = Segmenter(pairs.image_size, pairs.num_classes)
    network.to(device).train()
    optimizer = torch.optim.AdamW(network.parameters(), config.learning_rate, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.learning_rate, total_steps=config.steps)
    sampler = LayoutSampler(pairs, batch_size=config.batch_size, seed=config.seed)
    for step in range(config.steps):
        batch = sampler.batch(step)
        logits, _ = network(batch.images.to(device))
        loss = _cross_entropy(logits, batch.labels.to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if progress is not None:
            progress("training the segmenter", step + 1, config.steps)
    _calibrate(network, pairs)
    return network


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over the pixels that are not ignored; labels (B,H,W) are thinned to the grid of the logits (B,Nc,h,w)."""
    if labels.shape[1:] != logits.shape[2:]:
        labels = F.interpolate(labels[:, None].double(), size=logits.shape[2:], mode="nearest-exact")[:, 0].long()
    total = F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum")
    return total / (labels != IGNORED).sum().clamp_min(1)  # a batch may ignore every pixel


def _calibrate(network: Segmenter, pairs: LayoutImages) -> None:
    """Set the segmenter's centre and scale by some of the images it was trained on."""
    images = np.stack([pairs.pair(i)[0] for i in range(min(len(pairs), MOST_CALIBRATED))])
    _, features = network.look(images)
    centre = features.mean(0)
    scale = (features - centre).square().sum(1).mean().sqrt()
    if not scale > 0:
        raise UserError("the training images all look the same to the segmenter")
    network.centre.copy_(centre)
    network.scale.copy_(scale)


def _key(pairs: LayoutImages, config: SegmenterConfig) -> str:
    about = {
        "format": FORMAT,
        "channels": CHANNELS,
        "image_size": pairs.image_size,
        **dataclasses.asdict(config),
        "classes": pairs.class_names,
        "pairs": len(pairs),
    }
    total = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for index in np.unique(np.linspace(0, len(pairs) - 1, MOST_HASHED, dtype=int)).tolist():
        image, labels = pairs.pair(index)
        total.update(pairs.name(index).encode() + image.tobytes() + labels.tobytes())
    return total.hexdigest()[:16]
