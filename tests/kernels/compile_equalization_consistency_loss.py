"""Compile the Triton kernels of equalization_consistency_loss for sm_90 and print what each uses, as JSON.

A script of its own: ahead-of-time compilation needs a process without TRITON_INTERPRET.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import triton
from ahead import compiled

from pyeqgan.kernels import _config
from pyeqgan.kernels import equalization_consistency_loss as kernels

IMAGES = ("e", "d", "of_e", "of_d")
TYPES = {
    **dict.fromkeys(IMAGES, "*"),
    **dict.fromkeys(("sums", "grad_loss"), "*fp32"),
    **dict.fromkeys(("channels", "height", "width"), "i32"),
    "share": "fp32",
}
CHANNELS_LAST = {f"{image}_{axis}": "i64:16" for image in IMAGES for axis in "bhw"} | {"channels": "i32:16"}
DENSE = {f"{image}_c": 1 for image in IMAGES}
PLANES = {f"{image}_w": 1 for image in IMAGES}
LAUNCHES = (
    ("bf16", CHANNELS_LAST, DENSE | {"DISTANCE": "cosine"}),
    ("fp16", {}, PLANES | {"DISTANCE": "l1"}),
    ("fp32", {}, PLANES | {"DISTANCE": "cosine"}),
)


def instances() -> Iterator[tuple[Any, triton.Config, str, dict[str, str], dict[str, Any]]]:
    """Both directions, in both memory formats."""
    for storage, multiples, constants in LAUNCHES:
        for config in _config.configs("consistency", "sm90", autotune=True):
            for kernel in (kernels.sum_distances, kernels.distance_gradients):
                yield kernel.fn, config, storage, TYPES | multiples, constants


if __name__ == "__main__":
    print(json.dumps([compiled(*instance) for instance in instances()]))
