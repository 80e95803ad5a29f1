"""Pixel-contrast losses as modules, from their equations, without a data-dependent line."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class PerPositive(nn.Module):
    """−log of each positive against itself and all negatives (ContrastiveSeg, ICCV 2021)."""

    def __init__(self, temperature=0.1, base_temperature=0.1):
        super().__init__()
        self.temperature = temperature
        self.base_temperature = base_temperature

    def forward(self, features, labels):
        unit = F.normalize(features, dim=1)
        logits = unit @ unit.t() / self.temperature
        equal = (labels[:, None] == labels).to(features.dtype)
        own = torch.diag_embed(torch.ones_like(features[:, 0]))
        positive = equal * (1 - own)
        negatives = torch.logsumexp(logits.masked_fill(equal.bool(), -torch.inf), 1, keepdim=True)
        rows = (F.softplus(negatives - logits) * positive).sum(1) / positive.sum(1).clamp_min(1)
        loss = rows.sum() / (positive.sum(1) > 0).sum().clamp_min(1)
        return loss * (self.temperature / self.base_temperature)


class AsPublished(PerPositive):
    """A row without a positive divides zero by zero."""

    def forward(self, features, labels):
        unit = F.normalize(features, dim=1)
        logits = unit @ unit.t() / self.temperature
        equal = (labels[:, None] == labels).to(features.dtype)
        own = torch.diag_embed(torch.ones_like(features[:, 0]))
        positive = equal * (1 - own)
        negatives = (logits.exp() * (1 - equal)).sum(1, keepdim=True)
        log_probability = logits - torch.log(logits.exp() + negatives)
        return -((positive * log_probability).sum(1) / positive.sum(1)).mean()


class SupervisedContrast(nn.Module):
    """Supervised contrast of all others (Khosla et al., 2020, eq. 2), the labels -1 left out."""

    def __init__(self, temperature=0.2):
        super().__init__()
        self.temperature = temperature

    def forward(self, labels, features):
        logits = F.normalize(features, dim=-1) @ F.normalize(features, dim=-1).t() / self.temperature
        own = torch.diag_embed(torch.ones_like(features[:, 0])).bool()
        used = (labels != -1)[:, None] & (labels != -1) & ~own
        positive = (used & (labels[:, None] == labels)).to(features.dtype)
        log_sum = torch.logsumexp(logits.masked_fill(~used, -torch.inf), 1)
        active = positive.sum(1) > 0
        rows = log_sum - (positive * logits).sum(1) / positive.sum(1).clamp_min(1)
        return torch.where(active, rows, torch.zeros_like(rows)).sum() / active.sum().clamp_min(1)
