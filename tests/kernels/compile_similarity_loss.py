"""Compile the Triton kernels of similarity_loss for sm_90 and print what each instance uses, as JSON.

A script of its own: ahead-of-time compilation needs a process without TRITON_INTERPRET.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import torch
import triton
from ahead import compiled

from pyeqgan.kernels import _config
from pyeqgan.kernels import similarity_loss as kernels

TYPES = {
    "values": "*",
    "labels": "*i64",
    "sums": "*fp32",
    **dict.fromkeys(("padded", "span"), "i32:16"),
    "ignored": "i32",
    **dict.fromkeys(("unit", "low", "high"), "fp32"),
}
FAMILIES = {"forward": kernels.SUM_SURPRISALS, "backward": kernels.SUM_GRADIENTS}
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
# Widths of a few classes, of Cityscapes (35) and of COCO-Stuff (182).
LAUNCHES = (
    ("half", "bf16", 16),
    ("half", "bf16", 256),
    ("half", "fp16", 64),
    ("tf32", "fp32", 256),
    ("ieee", "fp32", 64),
    ("ieee", "fp32", 256),
)


def instances() -> Iterator[tuple[Any, triton.Config, str, dict[str, Any]]]:
    """Both directions, in all arithmetics."""
    for name, family in FAMILIES.items():
        for arithmetic, storage, width in LAUNCHES:
            precision = "tf32" if arithmetic == "tf32" else "ieee"
            constants = {"WIDTH": width, "PRECISION": precision, "PARTS": kernels.PARTS[DTYPES[storage]]}
            for config in _config.configs(f"similarity_{name}_{arithmetic}", "sm90", autotune=True):
                yield family[arithmetic].fn, config, storage, constants


if __name__ == "__main__":
    report = [compiled(kernel, config, storage, TYPES, c) for kernel, config, storage, c in instances()]
    print(json.dumps(report))
