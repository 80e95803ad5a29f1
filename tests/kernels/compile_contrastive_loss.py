"""Compile the Triton kernels of contrastive_loss for sm_90 and print what each instance uses, as JSON.

A script of its own: ahead-of-time compilation needs a process without TRITON_INTERPRET.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import triton
from ahead import compiled

from pyeqgan.kernels import _config, _contrastive_rows
from pyeqgan.kernels import contrastive_loss as kernels

FACTORS = (
    "query_factors",
    "key_factors",
    "own_factors",
    "other_factors",
    "factors",
    "inverses",
    "scale",
    "temperature",
)
RESULTS = ("boundary", "score_sums", "losses", "weights", "shares", "shifts", "pulls", "sums", "slopes")
TYPES = {
    **dict.fromkeys(("queries", "keys", "own", "other", "source", "values", "target"), "*"),
    **dict.fromkeys((*FACTORS, *RESULTS), "*fp32"),
    **dict.fromkeys(("begin", "end", "query_ids", "key_ids", "own_ids", "other_ids"), "*i32"),
    **dict.fromkeys(("query_count", "key_count", "own_count", "other_count", "count", "order"), "*i64"),
    **dict.fromkeys(("span", "padded", "channels"), "i32"),
}
NO_IDS = dict.fromkeys(("query_ids", "key_ids", "own_ids", "other_ids"))
# Self-contrast of short scores, and two sides with ids and scores of any size.
SELF = {**NO_IDS, "SINGLE": True, "OF_QUERIES": True, "OF_KEYS": True, "SUPCON": False, "BOUNDED": True}
SIDES = {"SINGLE": False, "OF_QUERIES": False, "OF_KEYS": True, "SUPCON": True, "BOUNDED": False}
LAUNCHES = (
    ("forward", "half", "bf16", SELF, True),
    ("forward", "half", "bf16", SIDES, False),
    ("forward", "tf32", "fp32", SELF, True),
    ("forward", "ieee", "fp32", SELF, True),
    ("positives", "half", "bf16", SELF, True),
    ("positives", "ieee", "fp32", SELF, True),
    ("backward", "half", "bf16", SELF, True),
    ("backward", "half", "fp16", SIDES, False),
    ("backward", "tf32", "fp32", SELF, True),
    ("backward", "ieee", "fp32", SELF, True),
)
FAMILIES = {
    "forward": kernels.SUM_EXPONENTIALS,
    "positives": kernels.SUM_POSITIVES,
    "backward": kernels.SUM_GRADIENTS,
}


def instances() -> Iterator[tuple[Any, triton.Config, str, dict[str, Any]]]:
    """The products in all arithmetics, 256 channels wide, and the rows on their way in and out."""
    for name, arithmetic, storage, options, every_tile in LAUNCHES:
        precision = "tf32" if arithmetic == "tf32" else "ieee"
        for config in _config.configs(f"contrastive_{name}_{arithmetic}", "sm90", autotune=every_tile):
            yield FAMILIES[name][arithmetic].fn, config, storage, {**options, "WIDTH": 256, "PRECISION": precision}
    for config in _config.configs("contrastive_rows", "sm90"):
        for kernel in (_contrastive_rows.gather, _contrastive_rows.scatter):
            yield kernel.fn, config, "bf16", {"WIDTH": 256, "NORMALIZE": True}


if __name__ == "__main__":
    report = [compiled(kernel, config, storage, TYPES, c) for kernel, config, storage, c in instances()]
    print(json.dumps(report))
