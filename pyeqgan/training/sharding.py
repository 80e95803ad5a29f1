"""Networks in shards: each process keeps its part of every weight and of its optimiser's state.

torch's `fully_shard` gathers the weights for a step and hands each process its part of the averaged gradients. It
would free the gathered weights after the forward pass, but a gradient penalty differentiates the backward pass, which
then finds freed memory: they stay until `FSDPModule.reshard`, so that what is saved is the optimiser's state (twice the
weights), the gradients (once) and, between steps, the weights.
"""

from __future__ import annotations

import warnings

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor


def shard(module: nn.Module) -> None:
    """Cut the parameters of `module` into one part per process; its buffers stay whole in each."""
    device = next(module.parameters()).device.type
    mesh = init_device_mesh(device, (dist.get_world_size(),))
    fully_shard(module, mesh=mesh, reshard_after_forward=False).set_reshard_after_backward(False)
    # The logits are a view, which nothing here changes in place.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view", UserWarning)


def whole(tensor: Tensor) -> Tensor:
    """A tensor of all processes' parts; every process must call this. One that is no shard is returned as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def part_like(tensor: Tensor, own: Tensor) -> Tensor:
    """The part of a whole tensor that is this process's, cut as `own` is; nothing is sent. The inverse of `whole`."""
    if not isinstance(own, DTensor):
        return tensor
    return distribute_tensor(tensor.to(own.device), own.device_mesh, own.placements, src_data_rank=None)
