"""A contrastive loss on the pixels of a segmentation network: pixels of a class attract each other, across images.

    python examples/contrastive_segmentation.py

Discs of three textures lie on noise; all have the same mean, so a pixel alone tells nothing. Two networks of the same
weights learn to find them, one by cross entropy alone, one by the contrastive loss of all pixels beside it. Printed is
the mean intersection over union on new images, and how much more alike (cosine) the features of two pixels are if they
are of one class. That gap widens; of so few steps the overlap need not gain, and may lose: cross entropy alone
suffices for a task as small as this.
"""

import math

import torch
import tyro
from torch import Tensor, nn

from pyeqgan import functional as F

CLASSES = 4


def scenes(count: int, side: int = 24) -> tuple[Tensor, Tensor]:
    """Images (count,3,S,S) and labels (count,S,S): background noise, stripes of two directions, checks."""
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    phase = 2 * math.pi * torch.rand(count, 1, 1)
    across, down = torch.sin(1.6 * x + phase), torch.sin(1.6 * y + phase)
    textures = torch.stack([torch.randn(count, side, side), across, down, 2 * across * down], 1)
    labels = torch.zeros(count, side, side, dtype=torch.int64)
    for label in range(1, CLASSES):
        centre, radius = side * torch.rand(2, count, 1, 1), side * (0.25 + 0.1 * torch.rand(count, 1, 1))
        labels[(y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2] = label
    picture = textures.gather(1, labels[:, None])
    return picture + 0.1 * torch.randn(count, 3, side, side), labels


class Segmenter(nn.Module):
    """Features of every pixel from its surroundings of 13×13, and their classes."""

    def __init__(self, channels: int = 24) -> None:
        super().__init__()
        layers = [nn.Sequential(nn.Conv2d(i, channels, 5, padding=2), nn.ReLU()) for i in (3, channels, channels)]
        self.features = nn.Sequential(*layers, nn.Conv2d(channels, 16, 1))
        self.classify = nn.Conv2d(16, CLASSES, 1)


def train(weight: float, steps: int, seed: int) -> None:
    """Train with so much of the contrastive loss, and tell what has been learnt."""
    torch.manual_seed(seed)
    model = Segmenter()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(steps):
        images, labels = scenes(4)
        features = model.features(images)
        loss = nn.functional.cross_entropy(model.classify(features), labels)
        if weight:
            loss = loss + weight * F.contrastive_loss(features.movedim(1, -1).flatten(0, 2), labels.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    with torch.no_grad():
        images, labels = scenes(32)
        features = model.features(images)
        found = model.classify(features).argmax(1)
        overlap = [((found == c) & (labels == c)).sum() / ((found == c) | (labels == c)).sum() for c in range(CLASSES)]
        pixels = nn.functional.normalize(features.movedim(1, -1).flatten(0, 2))[::7]
        same = labels.flatten()[::7, None] == labels.flatten()[::7]
        cosine = pixels @ pixels.T
    gap = cosine[same].mean() - cosine[~same].mean()
    print(f"contrastive weight {weight}: mean IoU {torch.stack(overlap).mean():.3f}, cosine gap {gap:.3f}", flush=True)


def main(steps: int = 80, weight: float = 0.1, seed: int = 0) -> None:
    """Train without and with the contrastive loss."""
    train(0, steps, seed)
    train(weight, steps, seed)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
