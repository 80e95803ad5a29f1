"""Your own model in your own training loop: the operations are ordinary differentiable PyTorch.

    python examples/training_loop.py

A few-shot painter sees three flowers of a species. Deep features of the first take up their best matches in the other
two; structure and texture are equalized; decoder blocks paint the first flower from what came out. Both losses fall
within seconds of one CPU core.
"""

import torch
import tyro
from torch import Tensor, nn

from pyeqgan import functional as F
from pyeqgan import nn as eq
from pyeqgan.data import EpisodeSampler, open_data


class Painter(nn.Module):
    """Paints the first of K images from their fused features."""

    def __init__(self, channels: int = 32) -> None:
        super().__init__()
        self.texture = nn.Conv2d(3, channels, 4, stride=2, padding=1)
        self.structure = eq.ActivatedConv2d(channels, channels)
        self.equalize = eq.EqualizationFusion(channels, channels, channels)
        self.decode = eq.SkipDecoderBlock(channels, channels, channels)
        self.paint = eq.SkipDecoderBlock(channels, 0, 3, norm=None, activation="tanh")

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images (B,K,3,S,S) → the painting (B,3,S,S), equalized and decoded features (B,C,S/2,S/2)."""
        texture = self.texture(images.flatten(0, 1))
        structure = self.structure(nn.functional.avg_pool2d(texture, 2)).unflatten(0, images.shape[:2])
        batch, shots, _, height, width = structure.shape
        positions = torch.rand(batch, height * width).argsort(1)[:, : height * width // 2]
        weights = torch.full((batch, shots), 1 / shots)
        fused, _ = F.local_fusion(structure[:, 0], structure[:, 1:], weights, positions)
        base = texture.unflatten(0, (batch, shots))[:, 0]
        equalized = self.equalize(nn.functional.interpolate(fused, scale_factor=2), base)
        decoded = self.decode(fused, equalized)
        return self.paint(decoded), equalized, decoded


def main(data: str = "embedded", steps: int = 60, batch_size: int = 4, seed: int = 0) -> None:
    """Train, and tell the mean losses of every ten steps."""
    torch.manual_seed(seed)
    seen = open_data(data, image_size=32).seen
    episodes = EpisodeSampler(seen, batch_size=batch_size, shots=3, seed=seed)
    model = Painter()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    losses = []
    for step in range(steps):
        images = episodes.episode(step).images
        painted, equalized, decoded = model(images)
        reconstruction = nn.functional.l1_loss(painted, images[:, 0])
        consistency = F.equalization_consistency_loss([equalized], [decoded])
        loss = reconstruction + 0.1 * consistency
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append([reconstruction.item(), consistency.item()])
        if step % 10 == 9:
            means = torch.tensor(losses[-10:]).mean(0).tolist()
            print(f"step {step + 1}: reconstruction {means[0]:.4f}, consistency {means[1]:.4f}", flush=True)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
