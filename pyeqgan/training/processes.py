"""The processes of a run: what they agree on, and what they average.

All take the same steps on their own rows of one batch. The first alone writes. A run of one process has nothing to
agree on, and every function here then returns at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from torch import Tensor

from pyeqgan.errors import UserError

BUCKET_BYTES = 25 << 20

_T = TypeVar("_T")


class Processes:
    """The processes that Fabric has launched, seen from one of them.

    Attributes:
        fabric: device, precision and process group.
        rank: number of this process, from 0.
        count: how many there are.
        group: of all, on the device; None for one process.
    """

    def __init__(self, fabric: Fabric) -> None:
        self.fabric = fabric
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.count = dist.get_world_size() if dist.is_initialized() else 1
        self.group = dist.group.WORLD if self.count > 1 else None
        # What the hosts tell each other does not wait for a GPU, and gloo notices at once when a process has died.
        self._hosts = dist.new_group(backend="gloo") if self.count > 1 else None

    def rows(self, batch: int) -> slice:
        """The rows of a batch that are this process's; UserError if the batch cannot be cut into equal parts."""
        if batch % self.count:
            raise UserError(f"--batch-size {batch}, expected a multiple of the {self.count} processes")
        share = batch // self.count
        return slice(self.rank * share, (self.rank + 1) * share)

    def agree(self, number: int) -> int:
        """The largest of all processes' numbers."""
        if self._hosts is None:
            return number
        numbers = torch.tensor(number)
        dist.all_reduce(numbers, dist.ReduceOp.MAX, group=self._hosts)
        return int(numbers)

    def first(self, function: Callable[[], _T]) -> _T:
        """What `function` returns in the first process, which alone calls it; the others wait.

        Raises:
            UserError: `function` did, in the first process, which is to tell it.
            SystemExit: likewise, in the others.
        """
        if self._hosts is None:
            return function()
        outcome: list[Any] = [None, None]
        if self.rank == 0:
            try:
                outcome[0] = function()
            except UserError as error:
                outcome[1] = error
        dist.broadcast_object_list(outcome, 0, group=self._hosts)
        result, failure = outcome
        if failure is not None:
            raise failure if self.rank == 0 else SystemExit(2)
        return cast(_T, result)

    def gather(self, lines: list[str]) -> list[str]:
        """The lines of all processes, each once."""
        if self._hosts is None:
            return lines
        found: list[list[str]] = [[] for _ in range(self.count)]
        dist.all_gather_object(found, lines, group=self._hosts)
        return list(dict.fromkeys(line for part in found for line in part))

    def mean(self, values: Tensor) -> Tensor:
        """The mean of a tensor over the processes, on its device."""
        if self.count > 1:
            values = values.clone()
            dist.all_reduce(values)
            values /= self.count
        return values

    def average_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Give every process the mean of all processes' gradients, bit for bit the same one.

        They travel after backward, in buckets of `BUCKET_BYTES`. torch's DistributedDataParallel would send them
        during it, but does not know the gradient penalty, whose backward runs through the network twice.
        """
        if self.count == 1:
            return
        for bucket in _buckets(p.grad for p in parameters if p.grad is not None):
            flat = torch.cat([gradient.flatten() for gradient in bucket])
            dist.all_reduce(flat)
            flat /= self.count
            parts = flat.split([gradient.numel() for gradient in bucket])
            for gradient, part in zip(bucket, parts, strict=True):
                gradient.copy_(part.view_as(gradient))

    @contextmanager
    def together(self) -> Iterator[None]:
        """Within: the end of another process becomes a UserError, where it breaks off what all do together."""
        try:
            yield
        except RuntimeError as error:
            # gloo has no exception of its own: its messages name the file of its sources.
            if self.count > 1 and (isinstance(error, dist.DistError) or "gloo" in str(error)):
                ended = f"process {self.rank} stopped: another process of the run has ended"
                raise UserError(f"{ended}; --resume continues from the last checkpoint") from error
            raise


def _buckets(gradients: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Lists of gradients of about `BUCKET_BYTES`, one at least in each."""
    bucket: list[Tensor] = []
    for gradient in gradients:
        bucket.append(gradient)
        if sum(g.nbytes for g in bucket) >= BUCKET_BYTES:
            yield bucket
            bucket = []
    if bucket:
        yield bucket
