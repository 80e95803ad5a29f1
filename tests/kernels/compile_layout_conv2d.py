"""Compile the Triton kernels of layout_conv2d for sm_90 and print what each instance uses, as JSON.

A script of its own: ahead-of-time compilation needs a process without TRITON_INTERPRET.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import triton
from ahead import compiled

from pyeqgan.kernels import _config
from pyeqgan.kernels import layout_conv2d as kernels

IMAGES = ("y", "grad")
SIZES = ("out_channels", "out_height", "out_width", "rows", "classes", "batch", "height", "width")
TYPES = {
    **dict.fromkeys((*IMAGES, "weight", "bias"), "*"),
    "labels": "*i64",
    "sums": "*fp32",
    **dict.fromkeys((*SIZES, "stride", "padding", "ignored", "span"), "i32"),
    "slope": "fp32",
}
# channels_last with multiples of 16 channels; NCHW with any number of them and of pixels.
CHANNELS_LAST = {f"{image}_{axis}": "i64:16" for image in IMAGES for axis in "bhw"} | {"out_channels": "i32:16"}
DENSE = {f"{image}_c": 1 for image in IMAGES} | {"ACTIVATION": "leaky_relu", "TAPS": 9, "COLUMNS": 3}
PLANES = {f"{image}_w": 1 for image in IMAGES} | {"ACTIVATION": "tanh", "TAPS": 16, "COLUMNS": 4}
LINEAR = DENSE | {"ACTIVATION": None, "y": None}
LAUNCHES = (
    ("half", "bf16", CHANNELS_LAST, DENSE),
    ("half", "fp16", {}, PLANES),
    ("tf32", "fp32", CHANNELS_LAST, DENSE),
    ("ieee", "fp32", {}, PLANES),
    ("half", "bf16", CHANNELS_LAST, LINEAR),
)


def instances() -> Iterator[tuple[Any, triton.Config, str, dict[str, str], dict[str, Any]]]:
    """The gradients in all arithmetics; the sums of rows, which are the same in all, with and without activation."""
    for arithmetic, storage, multiples, options in LAUNCHES:
        precision = {"PRECISION": "tf32" if arithmetic == "tf32" else "ieee"}
        for config in _config.configs(f"layout_classes_{arithmetic}", "sm90", autotune=True):
            yield kernels.BY_CLASS[arithmetic].fn, config, storage, TYPES | multiples, options | precision
        for config in _config.configs("layout_rows", "sm90", autotune=True):
            constants = {k: v for k, v in options.items() if k != "y"}
            yield kernels.sum_rows.fn, config, storage, TYPES | multiples, constants


if __name__ == "__main__":
    print(json.dumps([compiled(*instance) for instance in instances()]))
