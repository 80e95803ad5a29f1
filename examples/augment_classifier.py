"""Three labelled images of each class: train a classifier on them, and on them with generated ones beside them.

    pyeqgan train --output runs/flowers --image-size 32 --width 0.25 --steps 2000
    pyeqgan export --checkpoint runs/flowers --output flowers-generator
    python examples/augment_classifier.py --pretrained flowers-generator

The generator has never seen the classes. Printed is the accuracy on the remaining images of each class, mean of a few
draws of the three. Whether generated images help depends on how long the generator was trained.
"""

from pathlib import Path

import numpy as np
import torch
import tyro
from torch import Tensor, nn

from pyeqgan.data import open_data, to_tensor
from pyeqgan.models import EqGANGenerator


def classifier(classes: int) -> nn.Module:
    """A small convolutional network."""
    layers = [
        nn.Sequential(nn.Conv2d(i, o, 3, stride=2, padding=1), nn.BatchNorm2d(o), nn.ReLU())
        for i, o in ((3, 16), (16, 32), (32, 64))
    ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.3), nn.Linear(64, classes))


def accuracy(images: Tensor, labels: Tensor, test: Tensor, truth: Tensor, steps: int) -> float:
    """Train on (N,3,S,S) with labels (N,); the share of `test` that is recognised."""
    torch.manual_seed(0)
    model = classifier(int(labels.max()) + 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(steps):
        rows = torch.randint(len(images), (32,))
        batch = torch.where(torch.rand(32, 1, 1, 1) < 0.5, images[rows], images[rows].flip(-1))
        loss = nn.functional.cross_entropy(model(batch), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return float((model.eval()(test).argmax(1) == truth).float().mean())


def main(
    pretrained: Path,
    data: str = "embedded",
    classes: int = 5,
    shots: int = 3,
    generated: int = 30,
    draws: int = 2,
    steps: int = 60,
) -> None:
    """Tell the accuracy without and with generated images."""
    generator = EqGANGenerator.from_pretrained(pretrained)
    unseen = open_data(data, image_size=generator.config.image_size).unseen
    every = [to_tensor(np.stack([unseen.image(c, i) for i in range(unseen.count(c))])) for c in range(classes)]
    scores = []
    for draw in range(draws):
        given = [images[draw * shots : (draw + 1) * shots] for images in every]
        made = [generator.generate(images, generated, shots=shots, seed=draw) for images in given]
        rest = [torch.cat([images[: draw * shots], images[(draw + 1) * shots :]]) for images in every]
        truth = torch.arange(classes).repeat_interleave(torch.tensor([len(images) for images in rest]))
        few = torch.arange(classes).repeat_interleave(shots)
        many = torch.arange(classes).repeat_interleave(generated)
        alone = accuracy(torch.cat(given), few, torch.cat(rest), truth, steps)
        augmented = accuracy(torch.cat(given + made), torch.cat([few, many]), torch.cat(rest), truth, steps)
        scores.append([alone, augmented])
    alone, augmented = torch.tensor(scores).mean(0).tolist()
    print(f"{shots} images a class: accuracy {alone:.3f}; with {generated} generated: {augmented:.3f}")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
