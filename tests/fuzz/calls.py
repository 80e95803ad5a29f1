"""Calls of every public operation, with arguments that its documentation allows and with one of them spoiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from fuzz.drawing import Draw
from fuzz.spoiling import spoil
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from torch import Tensor

Arguments = dict[str, Any]
ACTIVATIONS = ("leaky_relu", "relu", "tanh", None)


def bilateral_propagation(d: Draw) -> Arguments:
    b, c, h, w = d.size(), d.size(), d.size(), d.size()
    sigma, radius = d.number(1e-3, 1e3, least=0.1), d.of(None, 0, 1, 3, 2**40)
    return {"x": d.tensor(b, c, h, w), "gate": d.maybe(b, c), "sigma": sigma, "radius": radius}


def local_fusion(d: Draw) -> Arguments:
    b, r, c, h, w = d.size(0, 3), d.size(0, 3), d.size(), d.size(), d.size()
    return {
        "base": d.tensor(b, c, h, w),
        "references": d.tensor(b, r, c, h, w),
        "weights": d.tensor(b, r + 1),
        "positions": d.rows(b, d.size(0, h * w), h * w),
    }


def lifted_fusion(d: Draw) -> Arguments:
    b, r, c, h, w, s = d.size(0, 3), d.size(0, 3), d.size(), d.size(1, 4), d.size(1, 4), d.size(1, 3)
    count = d.size(0, h * w)
    return {
        "base": d.tensor(b, c, s * h, s * w),
        "references": d.tensor(b, r, c, s * h, s * w),
        "weights": d.tensor(b, r + 1),
        "positions": d.rows(b, count, h * w),
        "matches": d.integers(b, r, count, low=0, high=h * w),
        "grid": (h, w),
    }


def _norm(d: Draw, norm: str | None, features: int, training: bool, prefix: str = "") -> Arguments:
    if norm is None:
        return {}
    found: Arguments = {f"{prefix}norm_weight": d.maybe(features), f"{prefix}norm_bias": d.maybe(features)}
    if norm == "batch" and (not training or d.of(True, False)):
        found[f"{prefix}running_mean"] = d.tensor(features).contiguous()  # updated in place: each place once
        found[f"{prefix}running_var"] = d.tensor(features).contiguous().square()
    return found


def skip_decoder_block(d: Draw) -> Arguments:
    b, cx, cs, co, h, w = d.size(), d.size(1), d.size(), d.size(1), d.size(1, 6), d.size(1, 6)
    joined = d.of(None, 1, 2)
    norm, training = d.of(None, "batch", "instance"), d.of(True, False)
    return {
        "x": d.tensor(b, cx, h, w),
        "skip": None if joined is None else d.tensor(b, cs, joined * h, joined * w),
        "weight": d.tensor(co, cx + (0 if joined is None else cs), 3, 3),
        "bias": d.maybe(co),
        "norm": norm,
        **_norm(d, norm, co, training),
        "training": training,
        "momentum": d.number(0.0, 1.0, most=1.0),
        "eps": d.number(least=1e-6, most=1.0),
        "activation": d.of(*ACTIVATIONS),
        "negative_slope": d.number(0.0, 1.0),
    }


def activated_conv2d(d: Draw) -> Arguments:
    b, c, co, kh, kw, padding = d.size(), d.size(1), d.size(1), d.size(1, 4), d.size(1, 4), d.size(0, 3)
    mode = d.of("reflect", "zeros", "replicate")
    least = [max(padding + 1 if mode == "reflect" else 1, k - 2 * padding) for k in (kh, kw)]
    return {
        "x": d.tensor(b, c, d.size(least[0]), d.size(least[1])),
        "weight": d.tensor(co, c, kh, kw),
        "bias": d.maybe(co),
        "activation": d.of(*ACTIVATIONS),
        "negative_slope": d.number(0.0, 1.0),
        "padding": padding,
        "padding_mode": mode,
    }


def layout_conv2d(d: Draw) -> Arguments:
    b, classes, co, kh, kw, padding = d.size(), d.size(1), d.size(1), d.size(1, 4), d.size(1, 4), d.size(0, 3)
    h, w = (d.size(max(k - 2 * padding, 0)) for k in (kh, kw))
    ignored = d.of(-1, 0, 255, -(2**63), 2**63 - 1)
    labels = d.integers(b, h, w, low=-1, high=classes)
    return {
        "labels": labels.masked_fill(labels == -1, ignored),
        "weight": d.tensor(co, classes, kh, kw),
        "bias": d.maybe(co),
        "stride": d.size(1, 3),
        "padding": padding,
        "ignore_index": ignored,
        "activation": d.of(*ACTIVATIONS),
        "negative_slope": d.number(0.0, 1.0),
    }


def similarity_loss(d: Draw) -> Arguments:
    b, classes, h, w = d.size(0, 3), d.size(), d.size(), d.size()
    return {
        "probabilities": d.tensor(b, classes, h, w).sigmoid(),
        "labels": d.integers(b, h, w, low=-1, high=d.of(3, 1, 9)),
        "ignore_index": d.of(-1, 0, -(2**63), 2**63 - 1),
        "eps": d.number(1e-6, least=1e-5, most=0.4),
    }


def contrastive_loss(d: Draw) -> Arguments:
    m, n, dim = d.size(0, 40), d.size(0, 40), d.size()
    classes = d.of(3, 1, 9)
    own, ids = d.of(False, True), d.of(False, True)
    temperature = d.number(1e-2, 1e2, least=0.05, most=1.0)
    return {
        "queries": d.tensor(m, dim),
        "query_labels": d.integers(m, low=-1, high=classes),
        "keys": d.tensor(n, dim) if own else None,
        "key_labels": d.integers(n, low=-1, high=classes) if own else None,
        "temperature": d.scalar(temperature) if d.of(False, True) else temperature,
        "mode": d.of("per_positive", "supcon"),
        "normalize": d.of(True, False),
        "ignore_index": d.of(-1, 0, -(2**63), 2**63 - 1),
        "query_ids": d.integers(m, low=0, high=12) if ids else None,
        "key_ids": d.integers(n, low=0, high=12) if ids and own else None,
        "reduction": d.of("mean", "sum", "none"),
    }


def multiscale_contrastive_loss(d: Draw) -> Arguments:
    b, dim, h, w, scales = d.size(0, 3), d.size(), d.size(1), d.size(1), d.size(1, 3)
    pairs = [(i, j) for i in range(scales) for j in range(scales) if d.of(False, False, True)]
    most = d.of(None, 1, 3)
    return {
        "features": [d.tensor(b, dim, d.size(0, 5), d.size(0, 5)) for _ in range(scales)],
        "labels": d.integers(b, h, w, low=-1, high=4),
        "temperature": d.number(0.1, least=0.05),
        "mode": d.of("per_positive", "supcon"),
        "scale_weights": d.of(None, [d.number(0.0) for _ in range(scales)]),
        "cross_scale": pairs,
        "cross_weight": d.number(0.0),
        "ignore_index": d.of(-1, 0),
        "max_pixels": most,
        "rows_per_image": None if most is None else d.of(None, 1, 4),
        "generator": d.generator(),
    }


def equalization_consistency_loss(d: Draw) -> Arguments:
    shapes = [(d.size(), d.size(), d.size(), d.size()) for _ in range(d.size(1, 3))]
    return {
        "equalized": [d.tensor(*s) for s in shapes],
        "decoded": [d.tensor(*s) for s in shapes],
        "scale_weights": d.of(None, [d.number(0.0) for _ in shapes]),
        "distance": d.of("cosine", "l1", "l2"),
        "detach": d.of(None, "equalized", "decoded"),
    }


def equalization_fusion(d: Draw) -> Arguments:
    b, cs, ct, cd, c, cr, co = (d.size(1, 5) for _ in range(7))
    h, w = d.size(2, 6), d.size(2, 6)
    detailed, norm, training = d.of(False, True), d.of("instance", "batch", None), d.of(True, False)
    return {
        "structure": d.tensor(b, cs, h, w),
        "texture": d.tensor(b, ct, h, w),
        "fuse_weight": d.tensor(c, cs + ct + cd * detailed, 1, 1),
        "fuse_bias": d.maybe(c),
        "gate_reduce_weight": d.tensor(cr, c, 1, 1),
        "gate_reduce_bias": d.maybe(cr),
        "gate_expand_weight": d.tensor(c, cr, 1, 1),
        "gate_expand_bias": d.maybe(c),
        "out_weight": d.tensor(co, 2 * c, 1, 1),
        "detail": d.tensor(b, cd, h, w) if detailed else None,
        "norm": norm,
        **_norm(d, norm, c, training, "fuse_"),
        **_norm(d, norm, co, training, "out_"),
        "training": training,
        "sigma": d.number(1e3, least=0.1),
        "negative_slope": d.number(0.0, 1.0),
    }


def modulated_norm(d: Draw) -> Arguments:
    b, c, h, w = d.size(), d.size(), d.size(), d.size()
    shape = d.of((b, c, h, w), (b, c))
    norm, training = d.of("instance", "batch", None), d.of(True, False)
    statistics = {k: v for k, v in _norm(d, norm, c, training).items() if k.startswith("running")}
    return {
        "x": d.tensor(b, c, h, w),
        "gamma": d.tensor(*shape),
        "beta": d.tensor(*shape),
        "norm": norm,
        **statistics,
        "training": training,
        "momentum": d.number(0.0, 1.0, most=1.0),
        "eps": d.number(least=1e-6, most=1.0),
        "activation": d.of(*ACTIVATIONS),
        "negative_slope": d.number(0.0, 1.0),
    }


ARGUMENTS: dict[str, Callable[[Draw], Arguments]] = {
    arguments.__name__: arguments
    for arguments in (
        bilateral_propagation,
        local_fusion,
        lifted_fusion,
        skip_decoder_block,
        activated_conv2d,
        layout_conv2d,
        similarity_loss,
        contrastive_loss,
        multiscale_contrastive_loss,
        equalization_consistency_loss,
        equalization_fusion,
        modulated_norm,
    )
}


class Call:
    """An operation's name and arguments; prints shapes and strides of tensors, values of all else."""

    def __init__(self, operation: str, arguments: Arguments, spoiled: str | None = None) -> None:
        self.operation, self.arguments, self.spoiled = operation, arguments, spoiled

    def __repr__(self) -> str:
        lines = [f"  {name}={_told(value)}" for name, value in self.arguments.items()]
        return "\n".join([f"{self.operation}, spoiled: {self.spoiled}", *lines])


def _told(value: Any) -> str:
    if isinstance(value, Tensor):
        strides = f"strides {value.stride()}" if value.layout == torch.strided else value.layout
        return f"{value.dtype} {tuple(value.shape)} {strides}"
    return f"[{', '.join(map(_told, value))}]" if isinstance(value, list) else repr(value)


@st.composite
def documented(draw: DrawFn, operation: str) -> Call:
    """A call as its documentation allows it."""
    return Call(operation, ARGUMENTS[operation](Draw(draw)))


@st.composite
def spoiled(draw: DrawFn, operation: str) -> Call:
    """A call with another value for one argument."""
    d = Draw(draw)
    arguments = ARGUMENTS[operation](d)
    name = d.of(*arguments)
    return Call(operation, {**arguments, name: spoil(d, arguments[name])}, spoiled=name)
