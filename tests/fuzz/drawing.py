"""Random tensors of any layout and any values, drawn by hypothesis; what lies beside a view in memory is poison."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from torch import Tensor

T = TypeVar("T")
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
VALUES = ("normal", "normal", "normal", "normal", "zero", "large", "denormal", "mixed", "nan", "inf", "huge")
LAYOUTS = ("contiguous", "contiguous", "strided", "strided", "expanded")


class Draw:
    """Draws the arguments of one call, all of one dtype; numbers come from torch, by a seed that hypothesis draws."""

    def __init__(self, draw: DrawFn) -> None:
        self._draw = draw
        self.dtype = self.of(*DTYPES)
        self.random = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))

    def of(self, *choices: T) -> T:
        """One of them; the first is the simplest."""
        found: T = self._draw(st.sampled_from(choices))
        return found

    def size(self, least: int = 0, most: int = 9) -> int:
        """An integer of [least, most]."""
        return int(self._draw(st.integers(least, most)))

    def number(self, *special: float, least: float = 0.0, most: float = 4.0) -> float:
        """A number of [least, most], or a special one."""
        among = st.floats(least, most, allow_subnormal=False)
        return float(self._draw(st.one_of(among, st.sampled_from(special)) if special else among))

    def tensor(self, *shape: int) -> Tensor:
        """Floating numbers of one of VALUES in one of LAYOUTS."""
        return self.lay_out(self._numbers(self.of(*VALUES), shape))

    def scalar(self, value: float) -> Tensor:
        """A 0-d tensor."""
        return torch.tensor(value, dtype=self.dtype)

    def maybe(self, *shape: int) -> Tensor | None:
        """A tensor, or None."""
        return self.tensor(*shape) if self.of(False, True) else None

    def integers(self, *shape: int, low: int, high: int) -> Tensor:
        """int64 of [low, high)."""
        return self.lay_out(torch.randint(low, max(high, low + 1), shape, generator=self.random))

    def generator(self) -> torch.Generator:
        """A random generator of its own."""
        return torch.Generator().manual_seed(self.size(0, 9))

    def rows(self, batch: int, count: int, size: int) -> Tensor:
        """(batch,count) int64, distinct in each row, of [0, size)."""
        rows = [torch.randperm(size, generator=self.random)[:count] for _ in range(batch)]
        return self.lay_out(torch.stack(rows) if rows else torch.empty(0, count, dtype=torch.int64), "strided")

    def lay_out(self, x: Tensor, *layouts: str) -> Tensor:
        """The same numbers (if expanded, of one place along a dimension) with other strides."""
        layout = self.of(*(layouts or LAYOUTS))
        if layout == "contiguous" or x.dim() == 0:
            return x
        if layout == "expanded":
            dim = self.size(0, x.dim() - 1)
            return x.narrow(dim, 0, min(1, x.shape[dim])).expand(x.shape) if x.shape[dim] else x
        order = self._draw(st.permutations(range(x.dim())))
        steps = [self.size(1, 2) for _ in order]
        starts = [self.size(0, 1) for _ in order]
        space = [starts[d] + steps[d] * x.shape[d] + 1 for d in order]
        poison = torch.nan if x.dtype.is_floating_point else torch.iinfo(x.dtype).min
        slices = tuple(slice(starts[d], starts[d] + steps[d] * x.shape[d], steps[d]) for d in order)
        view = torch.full(space, poison, dtype=x.dtype)[slices].permute(_inverse(order))
        view.copy_(x)
        return view

    def _numbers(self, kind: str, shape: Sequence[int]) -> Tensor:
        about = torch.finfo(self.dtype)
        x = torch.randn(shape, dtype=torch.float64, generator=self.random)
        odd = {
            "mixed": [0.0, -0.0, 1.0, about.tiny, about.eps, 100.0],
            "nan": [torch.nan, 0.0],
            "inf": [torch.inf, -torch.inf, 0.0],
            "huge": [about.max, -about.max, 0.0],
        }
        if kind in odd:
            replaced = torch.rand(shape, generator=self.random) < 0.1
            which = torch.randint(len(odd[kind]), shape, generator=self.random)
            x = torch.where(replaced, torch.tensor(odd[kind], dtype=torch.float64)[which], x)
        # Large enough for float32 to feel it, small enough for float16 to hold products of two.
        large = min(1e3, about.max**0.25)
        return (x * {"zero": 0.0, "large": large, "denormal": about.tiny}.get(kind, 1.0)).to(self.dtype)


def _inverse(order: Sequence[int]) -> list[int]:
    return [list(order).index(d) for d in range(len(order))]
