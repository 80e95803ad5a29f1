"""What a CUDA graph does, on the CPU: operations are recorded with their arguments and run again on the same memory.

No Python of the recorded function runs again, so that a number it computed stays as it was, as in a CUDA graph; and
what would wait for a GPU, or has a shape that depends on values, is refused where it is recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pyeqgan.ops._library import ORACLES, as_kernel

VALUES = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
INDEXING = (torch.ops.aten.index, torch.ops.aten.index_put, torch.ops.aten.index_put_, torch.ops.aten._unsafe_index_put)
COPYING = (torch.ops.aten._to_copy, torch.ops.aten.copy_)
MAKING = (torch.tensor, torch.as_tensor, torch.from_numpy, Tensor.new_tensor)


class NoReading(TorchDispatchMode):
    """Within: no operation may read a tensor's value, for which the host would have to wait for an accelerator.

    Args:
        inside: look into our own operations, too: at their oracles, which then run instead of the kernels.
    """

    def __init__(self, inside: bool = False) -> None:
        super().__init__()
        self._inside = inside

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        refuse_reading(function, args)
        if self._inside and function.namespace == "pyeqgan":
            with self:
                return as_kernel(ORACLES[function.overloadpacket.__name__])(*args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))


class NoCrossing(TorchDispatchMode):
    """Within: nothing may be copied between the host and another device.

    A number that lies on the host alone is no copy: kernels take it as an argument.
    """

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        found = list(_tensors((args, kwargs, out)))
        moved = any(t.dim() or function.overloadpacket in COPYING for t in found if t.device.type == "cpu")
        if moved and any(t.device.type != "cpu" for t in found):
            raise AssertionError(f"{function} between the host and the device within a step")
        return out


class NoData(TorchFunctionMode):
    """Within: no tensor may be made on a device of what Python holds, which torch copies there below any operation."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        if function in MAKING and out.device.type != "cpu":
            raise AssertionError(f"{function.__name__} of Python's data on the device within a step")
        if function is Tensor.__getitem__:
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            if any(isinstance(part, list) for part in index):
                raise AssertionError("an index that Python holds within a step")
        return out


def refuse_reading(function: Any, args: Any) -> None:
    """AssertionError if an operation reads a value."""
    if function.overloadpacket in INDEXING:
        reads = any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
    else:
        reads = bool(VALUES & set(function.tags))
    if reads:
        raise AssertionError(f"{function} within a step")


class HostRecorder:
    """A `graphs.Recorder` on the CPU."""

    def __init__(self, device: torch.device, rng: torch.Generator) -> None:
        self._rng = rng
        self.recorded = 0
        self.replayed = 0

    def warm_up(self, play: Callable[[], Any]) -> Any:
        return play()

    def record(self, play: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        recording, state = _Recording(), self._rng.get_state()
        with recording:
            result = play()
        recording.undo()  # recording computes nothing
        self._rng.set_state(state)
        self.recorded += 1

        def replay() -> None:
            self.replayed += 1
            recording.replay()

        return replay, result


class _Recording(TorchDispatchMode):
    """Operations in their order, with all their tensors, and what the memory held before."""

    def __init__(self) -> None:
        super().__init__()
        self._calls: list[tuple[Any, Any, Any, Any]] = []
        self._before: dict[int, tuple[Tensor, torch.UntypedStorage]] = {}
        self._own: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        refuse_reading(function, args)
        kwargs = kwargs or {}
        for tensor in _tensors((args, kwargs)):
            place = _place(tensor)
            if place not in self._own and place not in self._before:
                self._before[place] = tensor, tensor.untyped_storage().clone()
        out = function(*args, **kwargs)
        self._own |= {_place(tensor) for tensor in _tensors(out)} - self._before.keys()
        self._calls.append((function, args, kwargs, out))
        return out

    def undo(self) -> None:
        for tensor, before in self._before.values():
            tensor.untyped_storage().copy_(before)

    @torch.no_grad()
    def replay(self) -> None:
        for function, args, kwargs, out in self._calls:
            places = {_place(tensor) for tensor in _tensors((args, kwargs))}
            again = function(*args, **kwargs)
            for tensor, new in zip(_tensors(out), _tensors(again), strict=True):
                if _place(tensor) not in places:  # else it is what it came from, changed in place, or a view of it
                    tensor.copy_(new)


def _tensors(tree: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
