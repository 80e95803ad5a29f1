"""Another value for an argument, wrong or odd: what a user or an earlier bug may hand over."""

from __future__ import annotations

from typing import Any

import torch
from fuzz.drawing import Draw
from torch import Tensor

NUMBERS = (torch.nan, torch.inf, -torch.inf, -1.0, 0.0, 1e-38, 1e38, 1e39, 1e300, 1e-300, 10**400, "1", None, True)
INTEGERS = (-1, 2**31, 2**62, -(2**63), 2**63, 1.5, "1", None, True)
TEXTS = ("no", "", None, 3, b"mean")


def spoil(d: Draw, value: Any) -> Any:
    """Something else in the place of ``value``; some are right, as another call's argument."""
    if isinstance(value, Tensor):
        return _other_tensor(d, value)
    if isinstance(value, bool):
        return d.of(not value, None, "yes", 2)
    if isinstance(value, int):
        return d.of(*INTEGERS)
    if isinstance(value, float):
        return d.of(*NUMBERS, torch.tensor(1.0))
    if isinstance(value, str):
        return d.of(*TEXTS)
    if isinstance(value, list | tuple):
        among: list[Any] = [value[:-1], [*value, *value[:1]], None, 3, torch.zeros(2)]
        if value:
            among.append([spoil(d, value[0]), *value[1:]])
        return d.of(*among)
    return d.of(d.tensor(*(d.size(0, 3) for _ in range(d.size(0, 5)))), 1.0, "yes")


def _other_tensor(d: Draw, x: Tensor) -> Any:
    among: list[Any] = [None, 1.0, [1.0], x.to("meta"), x.unsqueeze(0), x.to(torch.int32), x.double(), x.bool()]
    among += [x.to(torch.complex64), x.to_sparse()] if x.dtype != torch.float16 else []
    if x.dim():
        dim = d.size(0, x.dim() - 1)
        among += [x.sum(dim), torch.cat([x, x.narrow(dim, 0, min(1, x.shape[dim]))], dim), x.narrow(dim, 0, 0)]
    if x.dtype == torch.int64:
        among += [x - 3, x + 1, x + 2**62, torch.zeros_like(x), torch.full_like(x, -(2**63))]
    return d.of(*among)
