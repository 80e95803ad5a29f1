"""Batch norm with the statistics of all processes' rows, so that several processes compute what one would."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class SyncBatchNorm(nn.SyncBatchNorm):
    """torch's `SyncBatchNorm` for every device: its own refuses the CPU.

    Every process must bring as many values. Means and mean squares are added in float64, by one collective in the
    forward pass and one in the backward pass, of 16 bytes a channel, so that their difference is exact enough.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (B,C,H,W) and, in training, move the running statistics."""
        mean, variance = self.running_mean, self.running_var
        assert mean is not None and variance is not None
        if self.training:
            mean, variance = self._statistics(input)
        scale = torch.rsqrt(variance + self.eps)
        if self.affine:
            scale = self.weight * scale
        shift = -mean * scale
        if self.affine:
            shift = self.bias + shift
        return torch.addcmul(shift[:, None, None], input, scale[:, None, None]).to(input.dtype)

    def _statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        assert self.running_mean is not None and self.running_var is not None
        kept = self.running_mean.dtype
        own_variance, own_mean = torch.var_mean(x.to(kept), (0, 2, 3), correction=0)
        own_mean, own_variance = own_mean.double(), own_variance.double()
        processes = dist.get_world_size()
        mean, square = _Sum.apply(torch.stack([own_mean, own_variance + own_mean.square()])) / processes  # type: ignore[no-untyped-call]
        variance = square - mean.square()
        with torch.no_grad():
            values = x.numel() // x.shape[1] * processes
            assert self.num_batches_tracked is not None and self.momentum is not None
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            unbiased = variance * (values / max(values - 1, 1))
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)
        return mean.to(kept), variance.to(kept)


def synchronize_batch_norm(module: nn.Module) -> None:
    """Let every `BatchNorm2d` inside `module` take the statistics of all processes; its state stays the same."""
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.BatchNorm2d):
                synchronized = SyncBatchNorm(child.num_features, child.eps, child.momentum, child.affine)
                for key, tensor in (*child.named_parameters(), *child.named_buffers()):
                    setattr(synchronized, key, tensor)
                setattr(parent, name, synchronized)


class _Sum(torch.autograd.Function):
    """The sum over all processes; each one's gradient is the sum of all of theirs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        total = grads[0].clone()
        dist.all_reduce(total)
        return total
