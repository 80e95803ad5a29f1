"""Compile the Triton kernels of skip_decoder_block for sm_90 and print what each instance uses, as JSON.

A script of its own: ahead-of-time compilation needs a process without TRITON_INTERPRET.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import triton
from ahead import compiled

from pyeqgan.kernels import _config
from pyeqgan.kernels import _normalization as norms
from pyeqgan.kernels import skip_decoder_block as kernels

STATISTICS = ("mean", "scale", "inverse", "mean_grad", "mean_product")
PARAMETERS = ("x_weight", "skip_weight", "bias")
TYPES = {
    **dict.fromkeys(("x", "skip", "y", "grad", "source", "out", *PARAMETERS), "*"),
    **dict.fromkeys(("moments", "sums", "pooled", "shift", *STATISTICS), "*fp32"),
    **dict.fromkeys(("channels", "x_channels", "skip_channels", "out_channels", "batch", "height", "width"), "i32"),
    **dict.fromkeys(("per_image", "span"), "i32"),
    "slope": "fp32",
}
FAMILIES = {"forward": kernels.FORWARD, "input": kernels.INPUT, "weight": kernels.WEIGHT}
IMAGES = ("x", "skip", "y", "grad", "source", "out")
# channels_last with multiples of 16 channels; NCHW with any number of them and of pixels.
CHANNELS_LAST = {f"{image}_{axis}": "i64:16" for image in IMAGES for axis in "bhw"}
CHANNELS_LAST |= dict.fromkeys(("channels", "x_channels", "skip_channels", "out_channels"), "i32:16")
DENSE = {f"{image}_c": 1 for image in IMAGES}
PLANES = {f"{image}_w": 1 for image in IMAGES}
LAUNCHES = (
    ("half", "bf16", CHANNELS_LAST, DENSE | {"FINE": True, "ACTIVATION": None}),
    ("half", "fp16", {}, PLANES | {"FINE": False, "ACTIVATION": "tanh", "moments": None}),
    ("tf32", "fp32", CHANNELS_LAST, DENSE | {"FINE": False, "ACTIVATION": None}),
    ("ieee", "fp32", CHANNELS_LAST, DENSE | {"FINE": False, "ACTIVATION": None}),
)


def instances() -> Iterator[tuple[Any, triton.Config, str, dict[str, str], dict[str, Any]]]:
    """The products in all arithmetics, and the norm's passes."""
    for arithmetic, storage, multiples, options in LAUNCHES:
        precision = "tf32" if arithmetic == "tf32" else "ieee"
        for name, family in FAMILIES.items():
            for config in _config.configs(f"decoder_{name}_{arithmetic}", "sm90", autotune=True):
                types = TYPES | multiples | {"weight": "*"}
                yield family[arithmetic].fn, config, storage, types, options | {"PRECISION": precision}
    for config in _config.configs("normalization", "sm90", autotune=True):
        for kernel in (norms.normalize, norms.sum_gradients, norms.normalize_backward):
            yield kernel.fn, config, "bf16", TYPES | {"weight": "*fp32"}, {"ACTIVATION": "leaky_relu"}


if __name__ == "__main__":
    print(json.dumps([compiled(*instance) for instance in instances()]))
