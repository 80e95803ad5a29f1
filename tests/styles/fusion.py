"""Local fusion (LoFGAN) as one may write it without a loop, with the positions given."""

from __future__ import annotations

import torch.nn.functional as F
from torch import nn


class VectorisedFusion(nn.Module):
    def __init__(self, normalized_base=False):
        super().__init__()
        self.normalized_base = normalized_base

    def forward(self, base, references, positions, weights):
        return self.fuse(base, references, positions, weights)

    def fuse(self, base, references, positions, weights):
        b, c, h, w = base.shape
        index = positions[:, None].expand(-1, c, -1)
        columns, candidates = base.flatten(2), references.flatten(3)
        selected = columns.gather(2, index)
        query = F.normalize(selected, dim=1) if self.normalized_base else selected
        alike = query.transpose(1, 2)[:, None] @ F.normalize(candidates, dim=2)
        match = alike.max(3)[1]
        gathered = candidates.gather(3, match[:, :, None].expand(-1, -1, c, -1))
        blend = weights[:, :1, None] * selected + (weights[:, 1:, None, None] * gathered).sum(1)
        return columns.scatter(2, index, blend).view(b, c, h, w), match


class FusedOnly(VectorisedFusion):
    def forward(self, positions, weights, references, base):
        return self.fuse(base, references, positions, weights)[0]


class WithoutNormalization(nn.Module):
    """A near miss: the longest reference wins, not the most similar."""

    def forward(self, base, references, positions, weights):
        b, c, h, w = base.shape
        index = positions[:, None].expand(-1, c, -1)
        columns, candidates = base.flatten(2), references.flatten(3)
        selected = columns.gather(2, index)
        match = (selected.transpose(1, 2)[:, None] @ candidates).max(3)[1]
        gathered = candidates.gather(3, match[:, :, None].expand(-1, -1, c, -1))
        blend = weights[:, :1, None] * selected + (weights[:, 1:, None, None] * gathered).sum(1)
        return columns.scatter(2, index, blend).view(b, c, h, w), match
