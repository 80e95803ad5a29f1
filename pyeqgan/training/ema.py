"""Exponential moving average of a network, the copy that evaluation uses."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn


class ExponentialMovingAverage(nn.Module):
    """A running average of the parameters and buffers of a network (ours).

    ``module`` holds it: a copy of the network in eval mode and float32, without gradients. Integer buffers,
    such as batch norm's counters, are copied, not averaged. The state dict is that of ``module`` and
    ``updates``, the number of updates so far. The n-th update keeps min(decay, n / (n + 9)) of the average: the
    initial weights are soon forgotten.

    Args:
        module: the network to follow; it is copied.
        decay: in [0, 1), how much of the average an update keeps in the long run.

    Raises:
        ValueError: ``decay`` is out of range.
    """

    updates: Tensor

    def __init__(self, module: nn.Module, decay: float = 0.999) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"ExponentialMovingAverage: decay: expected a number in [0, 1), got {decay}")
        self.decay = decay
        self.module = copy.deepcopy(module).float().requires_grad_(False).eval()
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def update(self, module: nn.Module, whole: Callable[[Tensor], Tensor] = lambda tensor: tensor) -> None:
        """Move the average towards ``module``, the network it copies or one with the same state dict.

        Args:
            module: the network.
            whole: makes its tensors whole, one after another, where they are shards.

        Raises:
            ValueError: the state dict has other names.
        """
        average, current = self.module.state_dict(), module.state_dict()
        if average.keys() != current.keys():
            names = ", ".join(sorted(average.keys() ^ current.keys())[:3])
            raise ValueError(f"ExponentialMovingAverage: expected the network it copies, differs in {names}")
        self.updates += 1
        # Kept as a tensor: reading the count would wait for the device.
        share = 1 - torch.clamp(self.updates / (self.updates + 9), max=self.decay)
        for name, tensor in average.items():
            if tensor.is_floating_point():
                tensor.lerp_(whole(current[name]).to(tensor.dtype), share)
            else:
                tensor.copy_(whole(current[name]))

    def train(self, mode: bool = True) -> ExponentialMovingAverage:
        """Stay in eval mode, whatever ``mode`` is: the average is only ever used."""
        return super().train(False)
