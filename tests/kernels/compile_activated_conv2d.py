"""Compile the Triton kernels of activated_conv2d for sm_90 and print what each instance uses, as JSON.

A script of its own: ahead-of-time compilation needs a process without TRITON_INTERPRET.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import triton
from ahead import compiled

from pyeqgan.kernels import _config
from pyeqgan.kernels import activated_conv2d as kernels

IMAGES = ("x", "y", "grad", "out")
SIZES = ("channels", "out_channels", "batch", "height", "width", "out_height", "out_width")
TYPES = {
    **dict.fromkeys((*IMAGES, "weight", "bias"), "*"),
    "sums": "*fp32",
    **dict.fromkeys((*SIZES, "padding", "folds", "band", "span"), "i32"),
    "slope": "fp32",
}
FAMILIES = {"forward": kernels.FORWARD, "input": kernels.INPUT, "weight": kernels.WEIGHT}
# channels_last with multiples of 16 channels; NCHW with any number of them and of pixels.
CHANNELS_LAST = {f"{image}_{axis}": "i64:16" for image in IMAGES for axis in "bhw"}
CHANNELS_LAST |= dict.fromkeys(("channels", "out_channels"), "i32:16")
DENSE = {f"{image}_c": 1 for image in IMAGES} | {"MODE": "reflect", "ACTIVATION": "leaky_relu", "TAPS": 9, "COLUMNS": 3}
PLANES = {f"{image}_w": 1 for image in IMAGES} | {"MODE": "zeros", "ACTIVATION": "tanh", "TAPS": 10, "COLUMNS": 5}
LAUNCHES = (
    ("half", "bf16", CHANNELS_LAST, DENSE),
    ("half", "fp16", {}, PLANES),
    ("tf32", "fp32", CHANNELS_LAST, DENSE),
    ("ieee", "fp32", CHANNELS_LAST, DENSE),
)


def instances() -> Iterator[tuple[Any, triton.Config, str, dict[str, str], dict[str, Any]]]:
    """The products in all arithmetics; the gradient of the map inside and at the border."""
    for arithmetic, storage, multiples, options in LAUNCHES:
        constants = options | {"PRECISION": "tf32" if arithmetic == "tf32" else "ieee"}
        for name, family in FAMILIES.items():
            for config in _config.configs(f"convolution_{name}_{arithmetic}", "sm90", autotune=True):
                for border in (False, True) if name == "input" else (False,):
                    yield family[arithmetic].fn, config, storage, TYPES | multiples, constants | {"BORDER": border}


if __name__ == "__main__":
    print(json.dumps([compiled(*instance) for instance in instances()]))
