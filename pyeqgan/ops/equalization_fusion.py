"""``equalization_fusion``: fuse structure and texture features and equalize them (MEDFE, ECCV 2020; EqGAN).

Where no kernel serves, the oracle runs: torch's products, norms and gate around our bilateral propagation.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pyeqgan import reference
from pyeqgan.ops import _checks as check
from pyeqgan.ops import _library as library
from pyeqgan.ops._graph import asked_for
from pyeqgan.ops._norm import check_norm, empty_statistics

NAME = "equalization_fusion"


def equalization_fusion(
    structure: Tensor,
    texture: Tensor,
    fuse_weight: Tensor,
    fuse_bias: Tensor | None,
    gate_reduce_weight: Tensor,
    gate_reduce_bias: Tensor | None,
    gate_expand_weight: Tensor,
    gate_expand_bias: Tensor | None,
    out_weight: Tensor,
    *,
    detail: Tensor | None = None,
    norm: str | None = "instance",
    fuse_norm_weight: Tensor | None = None,
    fuse_norm_bias: Tensor | None = None,
    fuse_running_mean: Tensor | None = None,
    fuse_running_var: Tensor | None = None,
    out_norm_weight: Tensor | None = None,
    out_norm_bias: Tensor | None = None,
    out_running_mean: Tensor | None = None,
    out_running_var: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    sigma: float = 1.5,
    negative_slope: float = 0.2,
) -> Tensor:
    """Fuse two (or three) feature maps of one scale and equalize the result over channels and space.

    X = lrelu(norm(fuse(cat[structure, texture, detail]))); g = sigmoid(gate_expand(relu(gate_reduce(mean_hw X))));
    E = lrelu(norm(out(bilateral_propagation(X, g)))). Nothing is concatenated: the weight is split instead. The CPU
    kernel holds propagated features, twice as many as X has, of a few images at a time.

    Args:
        structure, texture, detail: (B,Cs,H,W), (B,Ct,H,W) and None or (B,Cd,H,W), one dtype; any strides.
        fuse_weight: (C,Cs+Ct+Cd,1,1), input channels in the order [structure, texture, detail].
        fuse_bias: (C,) or None.
        gate_reduce_weight, gate_reduce_bias: (Cr,C,1,1) and (Cr,) or None.
        gate_expand_weight, gate_expand_bias: (C,Cr,1,1) and (C,) or None.
        out_weight: (Co,2C,1,1).
        norm: "instance", "batch" or None, for both norms.
        fuse_norm_weight … out_running_var: (C,) resp. (Co,), the norms' parameters and running statistics, as the
            norm arguments of ``skip_decoder_block``.
        training, momentum, eps: as there.
        sigma: of the spatial propagation, in pixels; > 0.
        negative_slope: of both leaky ReLUs; ≥ 0.

    Returns:
        (B,Co,H,W) in the dtype and memory format of structure. Differentiable twice in all tensors. Saved for
        backward: the maps, the parameters, the inputs of both norms, 9 numbers a pixel and 2 a channel and image.

    Raises:
        TypeError: an argument is not a tensor or has another dtype.
        ValueError: a wrong rank, size or device, an unknown norm, or numbers out of range; a batch norm in training
            with a single value per channel.
        NotImplementedError: forward-mode differentiation.

    Source: Liu et al. (MEDFE), ECCV 2020, section 3.2; EqGAN (arXiv 2307.14638). Instance norms and the third input
    are (ours).
    """
    check.tensor(NAME, "structure", structure, shape=("B", "Cs", "H", "W"))
    parameters = (
        fuse_weight,
        fuse_bias,
        gate_reduce_weight,
        gate_reduce_bias,
        gate_expand_weight,
        gate_expand_bias,
        out_weight,
    )
    structure, texture, detail, *cast = library.autocast(structure, texture, detail, *parameters)
    batch, _, height, width = structure.shape
    dtype, device = structure.dtype, structure.device
    inputs = {"structure": structure, "texture": texture, "detail": detail}
    for name, value in inputs.items():
        if value is not None or name != "detail":
            shape = (batch, f"C{name[0]}", height, width)
            check.tensor(NAME, name, value, shape=shape, dtype=dtype, device=device)
    maps = [value for value in inputs.values() if value is not None]
    channels = _check_parameters(cast, sum(m.shape[1] for m in maps), structure)
    negative_slope = check.number(NAME, "negative_slope", negative_slope, minimum=0)
    sigma = check.number(NAME, "sigma", sigma, positive=True)
    fuse_norm = (fuse_norm_weight, fuse_norm_bias, fuse_running_mean, fuse_running_var)
    out_norm = (out_norm_weight, out_norm_bias, out_running_mean, out_running_var)
    for prefix, features, norm_arguments in (
        ("fuse_", channels, fuse_norm),
        ("out_", cast[6].shape[0], out_norm),
    ):
        momentum, eps = check_norm(
            NAME, norm, features, structure, *norm_arguments, training, momentum, eps, prefix=prefix
        )
    if norm == "batch" and training and batch * height * width == 1:
        check.fail(NAME, "structure", "more than one value per channel to train a batch norm", "(1, C, 1, 1)")
    check.no_forward_mode(NAME, *maps, *cast, *fuse_norm, *out_norm)

    y, _, fuse_mean, fuse_var, _, _, _, _, out_mean, out_var = torch.ops.pyeqgan.equalization_fusion.default(
        structure,
        texture,
        detail,
        *cast,
        *fuse_norm[:2],
        *out_norm[:2],
        *fuse_norm[2:],
        *out_norm[2:],
        norm,
        training,
        eps,
        sigma,
        reference.spatial_radius(sigma, None),
        negative_slope,
    )
    if norm == "batch" and training:
        count = batch * height * width
        reference.update_running_statistics(fuse_running_mean, fuse_running_var, fuse_mean, fuse_var, momentum, count)
        reference.update_running_statistics(out_running_mean, out_running_var, out_mean, out_var, momentum, count)
    return y  # type: ignore[no-any-return]


def _check_parameters(parameters: list[Tensor | None], inputs: int, x: Tensor) -> int:
    """Check the shapes of the four products against each other; returns the number of fused channels."""
    names = (
        "fuse_weight",
        "fuse_bias",
        "gate_reduce_weight",
        "gate_reduce_bias",
        "gate_expand_weight",
        "gate_expand_bias",
        "out_weight",
    )
    for name, value in zip(names, parameters, strict=True):
        if value is not None or name.endswith("weight"):
            rank = ("outputs", "inputs", 1, 1) if name.endswith("weight") else ("outputs",)
            check.tensor(NAME, name, value, shape=rank, dtype=x.dtype, device=x.device)  # type: ignore[arg-type]
            check.not_empty(NAME, name, value)  # type: ignore[arg-type]
    fuse, fuse_bias, reduce, reduce_bias, expand, expand_bias, out = parameters
    assert fuse is not None and reduce is not None and expand is not None and out is not None
    channels, squeezed = fuse.shape[0], reduce.shape[0]
    check.tensor(NAME, "fuse_weight", fuse, shape=(channels, inputs, 1, 1))
    check.tensor(NAME, "gate_reduce_weight", reduce, shape=(squeezed, channels, 1, 1))
    check.tensor(NAME, "gate_expand_weight", expand, shape=(channels, squeezed, 1, 1))
    check.tensor(NAME, "out_weight", out, shape=("Co", 2 * channels, 1, 1))
    for name, bias, size in (
        ("fuse_bias", fuse_bias, channels),
        ("gate_reduce_bias", reduce_bias, squeezed),
        ("gate_expand_bias", expand_bias, channels),
    ):
        if bias is not None:
            check.tensor(NAME, name, bias, shape=(size,))
    return channels


# The differentiable arguments: three maps, seven parameters, and the two norms' weights and biases.
_DIFFERENTIABLE = 14


def _oracle(
    structure: Tensor,
    texture: Tensor,
    detail: Tensor | None,
    fuse_weight: Tensor,
    fuse_bias: Tensor | None,
    gate_reduce_weight: Tensor,
    gate_reduce_bias: Tensor | None,
    gate_expand_weight: Tensor,
    gate_expand_bias: Tensor | None,
    out_weight: Tensor,
    fuse_norm_weight: Tensor | None,
    fuse_norm_bias: Tensor | None,
    out_norm_weight: Tensor | None,
    out_norm_bias: Tensor | None,
    fuse_running_mean: Tensor | None,
    fuse_running_var: Tensor | None,
    out_running_mean: Tensor | None,
    out_running_var: Tensor | None,
    norm: str | None,
    training: bool,
    eps: float,
    sigma: float,
    radius: int,
    negative_slope: float,
) -> tuple[Tensor, ...]:
    form, dtype = library.memory_format_of(structure), structure.dtype
    wide = reference.accumulation_dtype(dtype)

    def activated(
        x: Tensor, weight: Tensor | None, bias: Tensor | None, running_mean: Tensor | None, running_var: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        y, mean, var = reference.normalize(x.to(wide), norm, weight, bias, running_mean, running_var, training, eps)
        # Statistics that are the running ones must not alias them: the op promises fresh outputs.
        return F.leaky_relu(y, negative_slope), mean.clone(), var.clone()

    maps = [m.to(wide) for m in (structure, texture, detail) if m is not None]
    fused = _split_product(maps, fuse_weight.to(wide), None if fuse_bias is None else fuse_bias.to(wide)).to(dtype)
    x, fuse_mean, fuse_var = activated(fused, fuse_norm_weight, fuse_norm_bias, fuse_running_mean, fuse_running_var)
    pooled = x.sum((2, 3))
    gates = (gate_reduce_weight, gate_reduce_bias, gate_expand_weight, gate_expand_bias)
    pixels = max(x.shape[2] * x.shape[3], 1)
    gate = _gate(pooled / pixels, *(None if g is None else g.to(wide) for g in gates)).to(dtype)  # type: ignore[arg-type]
    x = x.to(dtype).contiguous(memory_format=form)
    y, affinity = torch.ops.pyeqgan.bilateral_propagation.default(x, gate, sigma, radius)
    mixed = F.conv2d(y.to(wide), out_weight.to(wide)).to(dtype)
    y, out_mean, out_var = activated(mixed, out_norm_weight, out_norm_bias, out_running_mean, out_running_var)
    y, fused, mixed = (t.to(dtype).contiguous(memory_format=form) for t in (y, fused, mixed))
    return y, fused, fuse_mean, fuse_var, pooled, gate, affinity, mixed, out_mean, out_var


def _fake(structure: Tensor, *others: Any) -> tuple[Tensor, ...]:
    fuse_weight, out_weight, norm = others[2], others[8], others[17]
    channels, outputs = fuse_weight.shape[0], out_weight.shape[0]
    batch, _, height, width = structure.shape
    wide = reference.accumulation_dtype(structure.dtype)
    return (
        library.empty_image(structure, outputs),
        library.empty_image(structure, channels),
        empty_statistics(structure, norm, channels),
        empty_statistics(structure, norm, channels),
        structure.new_empty((batch, channels), dtype=wide),
        structure.new_empty((batch, channels)),
        structure.new_empty((batch, 9, height, width), dtype=wide),
        library.empty_image(structure, outputs),
        empty_statistics(structure, norm, outputs),
        empty_statistics(structure, norm, outputs),
    )


def _backward_oracle(grad_y: Tensor, *arguments: Any) -> list[Tensor]:
    inputs, saved = arguments[:_DIFFERENTIABLE], arguments[_DIFFERENTIABLE:-7]
    *options, needs = arguments[-7:]
    _, fuse_mean, fuse_var, _, _, _, _, out_mean, out_var = saved
    others = (fuse_mean, fuse_var, out_mean, out_var, *options)

    def forward(*tensors: Any) -> Tensor:
        return _oracle(*(*tensors, *others))[0]

    grads = library.composed_backward(forward, inputs, (grad_y,), needs)
    forms = [library.memory_format_of(i) if n and i.dim() == 4 else None for i, n in zip(inputs, needs, strict=True)]
    return [g.contiguous() if f is None else g.contiguous(memory_format=f) for g, f in zip(grads, forms, strict=True)]


def _backward_fake(grad_y: Tensor, *arguments: Any) -> list[Tensor]:
    inputs, needs = arguments[:_DIFFERENTIABLE], arguments[-1]

    def gradient(i: int, x: Tensor) -> Tensor:
        return library.empty_image(x, x.shape[1]) if i < 3 else x.new_empty(x.shape)

    return [
        gradient(i, x) if need and x is not None else grad_y.new_empty(0)
        for i, (x, need) in enumerate(zip(inputs, needs, strict=True))
    ]


_TENSORS = (
    "Tensor structure, Tensor texture, Tensor? detail, Tensor fuse_weight, Tensor? fuse_bias, "
    "Tensor gate_reduce_weight, Tensor? gate_reduce_bias, Tensor gate_expand_weight, Tensor? gate_expand_bias, "
    "Tensor out_weight, Tensor? fuse_norm_weight, Tensor? fuse_norm_bias, Tensor? out_norm_weight, "
    "Tensor? out_norm_bias"
)
_SAVED = (
    "Tensor fused, Tensor fuse_mean, Tensor fuse_var, Tensor pooled, Tensor gate, Tensor affinity, Tensor mixed, "
    "Tensor out_mean, Tensor out_var"
)
_OPTIONS = "str? norm, bool training, float eps, float sigma, int radius, float negative_slope"

library.define(
    f"{NAME}({_TENSORS}, Tensor? fuse_running_mean, Tensor? fuse_running_var, Tensor? out_running_mean, "
    f"Tensor? out_running_var, {_OPTIONS}) -> (Tensor y, {_SAVED})",
    oracle=_oracle,
    fake=_fake,
)
library.define(
    f"{NAME}_backward(Tensor grad_y, {_TENSORS}, {_SAVED}, {_OPTIONS}, bool[] needs) -> Tensor[]",
    oracle=_backward_oracle,
    fake=_backward_fake,
)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.options = inputs[_DIFFERENTIABLE + 4 :]
    ctx.save_for_backward(*inputs[:_DIFFERENTIABLE], *output[1:])
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad_y: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    others = 4 + len(ctx.options)
    if grad_y is None:
        return (None,) * (_DIFFERENTIABLE + others)
    needs = list(asked_for(ctx)[:_DIFFERENTIABLE])
    grads = torch.ops.pyeqgan.equalization_fusion_backward.default(grad_y, *ctx.saved_tensors, *ctx.options, needs)
    return *map(library.optional, grads, needs), *(None,) * others


library.differentiate(NAME, _backward, _setup_context)
library.differentiate_composed(f"{NAME}_backward")


def _split_product(maps: list[Tensor], weight: Tensor, bias: Tensor | None) -> Tensor:
    """conv1×1(cat(maps)) without the concatenation."""
    weights = weight.split([m.shape[1] for m in maps], 1)
    total = F.conv2d(maps[0], weights[0], bias)
    for m, w in zip(maps[1:], weights[1:], strict=True):
        total = total + F.conv2d(m, w)
    return total


def _gate(
    mean: Tensor,
    reduce_weight: Tensor,
    reduce_bias: Tensor | None,
    expand_weight: Tensor,
    expand_bias: Tensor | None,
) -> Tensor:
    """The channel gate (B,C) of squeeze and excitation: sigmoid(expand(relu(reduce(mean))))."""
    squeezed = F.relu(F.linear(mean, reduce_weight.flatten(1), reduce_bias))
    return torch.sigmoid(F.linear(squeezed, expand_weight.flatten(1), expand_bias))
