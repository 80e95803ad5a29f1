"""Compile the Triton kernels of equalization_fusion's own for sm_90 and print what each instance uses, as JSON.

A script of its own: ahead-of-time compilation needs a process without TRITON_INTERPRET.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import triton
from ahead import compiled

from pyeqgan.kernels import _config
from pyeqgan.kernels import equalization_fusion as kernels

MAPS = ("structure", "texture", "detail")
IMAGES = (*MAPS, "x", "y")
CHANNELS = ("channels", "out_channels", *(f"{m}_channels" for m in MAPS))
TYPES = {
    **dict.fromkeys((*IMAGES, *(f"{m}_weight" for m in MAPS), "weight", "bias", "gate"), "*"),
    **dict.fromkeys(("affinity", "inverse_y", "scratch", "moments"), "*fp32"),
    **dict.fromkeys((*CHANNELS, "height", "width", "reach"), "i32"),
    "sigma": "fp32",
}
FAMILIES = {"fuse": kernels.FUSE, "mix": kernels.MIX}
# channels_last with multiples of 16 channels; NCHW with any number of them and of pixels, and no detail.
CHANNELS_LAST = {f"{image}_{axis}": "i64:16" for image in IMAGES for axis in "bhw"} | dict.fromkeys(CHANNELS, "i32:16")
DENSE = {f"{image}_c": 1 for image in IMAGES}
PLANES = {f"{image}_w": 1 for image in IMAGES} | {"detail": None, "detail_weight": None, "moments": None}
LAUNCHES = (
    ("half", "bf16", CHANNELS_LAST, DENSE),
    ("half", "fp16", {}, PLANES),
    ("tf32", "fp32", CHANNELS_LAST, DENSE),
    ("ieee", "fp32", CHANNELS_LAST, DENSE),
    ("ieee", "fp32", {}, PLANES),
)


def instances() -> Iterator[tuple[Any, triton.Config, str, dict[str, str], dict[str, Any]]]:
    """Both products in all arithmetics; the others are those of activated_conv2d and bilateral_propagation."""
    for arithmetic, storage, multiples, options in LAUNCHES:
        constants = options | {"PRECISION": "tf32" if arithmetic == "tf32" else "ieee"}
        for name, family in FAMILIES.items():
            for config in _config.configs(f"equalization_{name}_{arithmetic}", "sm90", autotune=True):
                yield family[arithmetic].fn, config, storage, TYPES | multiples, constants


if __name__ == "__main__":
    print(json.dumps([compiled(*instance) for instance in instances()]))
