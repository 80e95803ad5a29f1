"""What a painter of layouts is here, and the trivial one that every other has to beat."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pyeqgan.data import to_tensor
from pyeqgan.data.layouts import LayoutImages

Paint = Callable[[Tensor, Tensor | None], tuple[Tensor | None, Tensor, Tensor | None]]
"""(labels (B,H,W) int64 with −1 where ignored, instance edges (B,1,H,W) float32 if the data know instances, else None;
both on the CPU) -> edges (B,C,H,W) with C 1 or 3, images and refined images (B,3,H,W), floating in [−1,1]. An edge is
where the mean over C is above 0. A painter of no edges, or none that refines, returns None for them."""


def mean_colours(pairs: LayoutImages) -> Tensor:
    """Mean colour of each class over all pixels of all pairs.

    Returns:
        (Nc+1,3) float64 in [-1,1]: of a class that has no pixels, and last of ignored pixels, the mean of all pixels.
    """
    sums = torch.zeros(pairs.num_classes + 1, 3, dtype=torch.float64)
    counts = torch.zeros(pairs.num_classes + 1, dtype=torch.int64)
    for index in range(len(pairs)):
        image, labels = pairs.pair(index)
        cells = torch.tensor(labels).flatten().remainder(pairs.num_classes + 1)  # −1 becomes the last
        sums.index_add_(0, cells, to_tensor(image[None])[0].flatten(1).T.double())
        counts += torch.bincount(cells, minlength=len(counts))
    overall = sums.sum(0) / counts.sum()
    means = torch.where(counts[:, None] > 0, sums / counts[:, None].clamp_min(1), overall)
    means[-1] = overall
    return means


def paint_means(labels: Tensor, colours: Tensor) -> Tensor:
    """Images (B,3,H,W) float32 of labels (B,H,W), each pixel its class's row of `colours`, see `mean_colours`."""
    return colours[labels].movedim(3, 1).float()  # −1 is the last row
