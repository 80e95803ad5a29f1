"""How the products of a kernel are computed: a set of tiles for each arithmetic.

Products of float32 numbers are those of IEEE arithmetic, or by tensor cores where torch's own switch for products of
matrices allows it: ``torch.backends.cuda.matmul.allow_tf32`` (``fp32_precision``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from pyeqgan.kernels._config import tiled

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
ARITHMETIC = ("half", "tf32", "ieee")


def family(name: str, key: Sequence[str], kernel: Any) -> dict[str, Any]:
    """A kernel by arithmetic, with tiles ``name_half`` and so on."""
    return {a: tiled(f"{name}_{a}", key)(kernel) for a in ARITHMETIC}


def arithmetic(op: str, argument: str, dtype: torch.dtype) -> tuple[str, str]:
    """One of ARITHMETIC for features of a dtype, and the ``input_precision`` it is.

    Raises:
        TypeError: no kernel takes this dtype.
    """
    if dtype not in DTYPES:
        raise TypeError(f"{op} (Triton): {argument}: expected float32, bfloat16 or float16, got {dtype}")
    if dtype != torch.float32:
        return "half", "ieee"
    return ("tf32", "tf32") if torch.backends.cuda.matmul.fp32_precision == "tf32" else ("ieee", "ieee")
