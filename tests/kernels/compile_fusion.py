"""Compile the Triton kernels of local_fusion and lifted_fusion for sm_90 and print what each instance uses, as JSON.

A script of its own: ahead-of-time compilation needs a process without TRITON_INTERPRET.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import triton
from ahead import compiled

from pyeqgan.kernels import _config, lifted_fusion, local_fusion

IMAGES = ("base", "references", "fused", "grad", "out")
TYPES = {
    **dict.fromkeys((*IMAGES, "rows", "weights"), "*"),
    **dict.fromkeys(("positions", "matches", "takers", "starts"), "*i64"),
    "terms": "*fp32",
    **dict.fromkeys(("count", "selected", "channels", "pixels", "columns", "scale"), "i32"),
}
# channels_last and NCHW with multiples of 16 channels and pixels; NCHW with any number of them.
STRIDES = {f"{image}_{axis}" for image in IMAGES for axis in "bchw"}
STRIDES |= {"of_image", "of_reference", "of_channel", "of_row", "of_column", "of_pixel"}
MULTIPLES = dict.fromkeys(STRIDES, "i64:16") | dict.fromkeys(("channels", "pixels"), "i32:16")
DENSE = dict.fromkeys((s for s in STRIDES if s.endswith(("_c", "_channel"))), 1)
PLANES = dict.fromkeys((s for s in STRIDES if s.endswith(("_w", "_column", "_pixel"))), 1)
LAYOUTS = ((MULTIPLES, DENSE), (MULTIPLES, PLANES), ({}, PLANES))
PRODUCTS = (
    ("half", "bf16", LAYOUTS[0]),
    ("half", "fp16", LAYOUTS[1]),
    ("half", "bf16", LAYOUTS[2]),
    ("tf32", "fp32", LAYOUTS[1]),
    ("tf32", "fp32", LAYOUTS[2]),
    ("ieee", "fp32", LAYOUTS[2]),
)


def instances() -> Iterator[tuple[Any, triton.Config, str, dict[str, str], dict[str, Any]]]:
    """The similarities in all arithmetics, and the blends, in both memory formats."""
    for arithmetic, storage, (multiples, constants) in PRODUCTS:
        for config in _config.configs(f"fusion_match_{arithmetic}", "sm90", autotune=storage == "fp16"):
            precision = {"PRECISION": "tf32" if arithmetic == "tf32" else "ieee"}
            yield local_fusion.MATCH[arithmetic].fn, config, storage, TYPES | multiples, constants | precision
    for storage, (multiples, constants) in zip(("bf16", "fp16", "fp32"), LAYOUTS, strict=True):
        for config in _config.configs("fusion_blend", "sm90", autotune=True):
            for kernel in (lifted_fusion.blend, lifted_fusion.blend_backward, lifted_fusion.reference_gradient):
                yield kernel.fn, config, storage, TYPES | {"rows": "i32"} | multiples, constants


if __name__ == "__main__":
    print(json.dumps([compiled(*instance) for instance in instances()]))
