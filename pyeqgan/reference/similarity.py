"""The similarity loss of ECGAN (ICLR 2023): pixels of one class are to look alike, others not."""

from __future__ import annotations

import torch
from torch import Tensor

from pyeqgan.reference.arithmetic import accumulation_dtype


def similarity_loss(probabilities: Tensor, labels: Tensor, *, ignore_index: int = -1, eps: float = 1e-6) -> Tensor:
    """The loss with all M² pairs in memory. See :func:`pyeqgan.functional.similarity_loss`."""
    return similarity_of_rows(slice(None), probabilities, labels, ignore_index, eps)


def similarity_of_rows(rows: slice, probabilities: Tensor, labels: Tensor, ignore_index: int, eps: float) -> Tensor:
    """What the pairs (m,n) add to the loss whose first pixel is among ``rows`` of each flattened image."""
    dtype = accumulation_dtype(probabilities.dtype)
    flat = labels.flatten(1)
    valid = flat != ignore_index
    # Of an ignored pixel not even a NaN counts.
    p = torch.where(valid[:, None], probabilities.to(dtype).flatten(2), 0)
    similarity = torch.einsum("bcm,bcn->bmn", p[:, :, rows], p).clamp(eps, 1 - eps)
    equal = flat[:, rows, None] == flat[:, None]
    pairs = valid[:, rows, None] & valid[:, None]
    entropy = -torch.where(equal, similarity.log(), torch.log1p(-similarity))
    count = valid.sum(1)
    images = torch.where(pairs, entropy, 0).sum((1, 2)) / count.square().clamp_min(1)
    return images.sum() / (count > 0).sum().clamp_min(1)
