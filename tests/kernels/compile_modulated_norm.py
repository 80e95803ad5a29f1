"""Compile the Triton kernels of modulated_norm for sm_90 and print what each instance uses, as JSON.

A script of its own: ahead-of-time compilation needs a process without TRITON_INTERPRET.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import triton
from ahead import compiled

from pyeqgan.kernels import _config
from pyeqgan.kernels import _modulation as kernels
from pyeqgan.kernels import _normalization as norms

IMAGES = ("x", "y", "gamma", "beta", "grad", "of_x", "of_gamma", "of_beta")
TYPES = {
    **dict.fromkeys(IMAGES, "*"),
    **dict.fromkeys(("mean", "var", "given", "sums", "moments"), "*fp32"),
    **dict.fromkeys(("channels", "pixels", "parts", "per_image"), "i32"),
    "extent": "i32:16",
    **dict.fromkeys(("eps", "slope", "share"), "fp32"),
}
# NCHW with multiples of 16 pixels, and with any number of them; channels_last with multiples of 16 channels.
PLANES = {f"{image}_p": 1 for image in IMAGES}
ALIGNED = {f"{image}_{axis}": "i64:16" for image in IMAGES for axis in "bc"} | {"pixels": "i32:16"}
DENSE = {f"{image}_c": 1 for image in IMAGES}
CHANNELS_LAST = {f"{image}_{axis}": "i64:16" for image in IMAGES for axis in "bp"} | {"channels": "i32:16"}
# Gamma and beta (B,C) have gradients that are summed.
VECTORS = {"gamma_p": None, "beta_p": None, "of_gamma": None, "of_beta": None}
# Of the passes after the sums, and of the only one.
LAST = {"beta": None, "of_gamma": None, "of_beta": None, "sums": None, "ACTIVATION": None}
FIRST = {"given": None, "of_x": None}
ONLY = {"given": None, "sums": None}
LAUNCHES = (
    ("planes", "bf16", ALIGNED, PLANES, {}),
    ("planes", "fp32", {}, PLANES, {}),
    ("channels_last", "fp16", CHANNELS_LAST, DENSE, {}),
    ("whole", "bf16", ALIGNED, PLANES, {"CHANNELS": 1, "PIXELS": 4096}),
    ("whole", "bf16", {}, PLANES, {"CHANNELS": 1, "PIXELS": 2048}),
    ("whole", "fp16", CHANNELS_LAST, DENSE, {"CHANNELS": 16, "PIXELS": 256}),
    ("whole", "fp32", {}, PLANES, {"CHANNELS": 64, "PIXELS": 16}),
)


def instances() -> Iterator[tuple[Any, triton.Config, str, dict[str, str], dict[str, Any]]]:
    """Every pass of every walk; what joins the moments of parts."""
    for walk, storage, multiples, layout, tile in LAUNCHES:
        whole = walk == "whole"
        constants = layout | {"WHOLE": whole, "ACTIVATION": "leaky_relu"} | tile
        passes = [(kernels.modulate, {}), (kernels.modulate, VECTORS | {"ACTIVATION": "tanh"})]
        passes += [(kernels.modulate_backward, options) for options in (ONLY, FIRST | VECTORS)]
        if not whole:
            passes += [(kernels.moments, {}), (kernels.modulate_backward, FIRST), (kernels.modulate_backward, LAST)]
        for config in _config.configs(f"modulation_{walk}", "sm90", autotune=True):
            for kernel, options in passes:
                yield kernel, config, storage, TYPES | multiples, constants | options
    for config in _config.configs("moments", "sm90", autotune=True):
        yield norms.join_moments.fn, config, "fp32", TYPES, {}


if __name__ == "__main__":
    print(json.dumps([compiled(*instance) for instance in instances()]))
