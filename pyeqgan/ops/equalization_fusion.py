"""``equalization_fusion``: fuse structure and texture features and equalize them (MEDFE, ECCV 2020; EqGAN).

The whole is composed: the 1×1 products, the norms and the gate are torch's, the bilateral propagation is ours.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pyeqgan.ops import _checks as check
from pyeqgan.ops import _library as library
from pyeqgan.ops._norm import check_norm
from pyeqgan.ops.bilateral_propagation import bilateral_propagation

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
    E = lrelu(norm(out(bilateral_propagation(X, g)))). Nothing is concatenated: the weight is split instead.

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
        (B,Co,H,W) in the dtype and memory format of structure. Differentiable twice in all tensors.

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
    check.number(NAME, "sigma", sigma, positive=True)
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

    fuse_weight, fuse_bias, *gate_parameters, out_weight = cast
    x = _split_product(maps, fuse_weight, fuse_bias)
    x = _normalize(x, norm, fuse_norm, training, momentum, eps)
    x = F.leaky_relu(x, negative_slope)
    gate = _gate(x, *gate_parameters)
    y = F.conv2d(bilateral_propagation(x, gate, sigma=sigma), out_weight)
    y = _normalize(y, norm, out_norm, training, momentum, eps)
    return F.leaky_relu(y, negative_slope).contiguous(memory_format=library.memory_format_of(structure))


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


def _split_product(maps: list[Tensor], weight: Tensor, bias: Tensor | None) -> Tensor:
    """conv1×1(cat(maps)) without the concatenation."""
    weights = weight.split([m.shape[1] for m in maps], 1)
    total = F.conv2d(maps[0], weights[0], bias)
    for m, w in zip(maps[1:], weights[1:], strict=True):
        total = total + F.conv2d(m, w)
    return total


def _normalize(
    x: Tensor,
    norm: str | None,
    arguments: tuple[Tensor | None, ...],
    training: bool,
    momentum: float,
    eps: float,
) -> Tensor:
    weight, bias, running_mean, running_var = arguments
    if norm is None or x.shape[0] == 0:
        return x
    if norm == "batch":
        return F.batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)
    # torch's instance_norm refuses maps of one pixel; a layer norm over the map is the same without the refusal.
    y = F.layer_norm(x, x.shape[2:], eps=eps)
    y = y if weight is None else y * weight.to(y.dtype)[:, None, None]
    return y if bias is None else y + bias.to(y.dtype)[:, None, None]


def _gate(
    x: Tensor,
    reduce_weight: Tensor,
    reduce_bias: Tensor | None,
    expand_weight: Tensor,
    expand_bias: Tensor | None,
) -> Tensor:
    """The channel gate (B,C) of squeeze and excitation: sigmoid(expand(relu(reduce(mean over pixels))))."""
    squeezed = F.relu(F.linear(x.mean((2, 3)), reduce_weight.flatten(1), reduce_bias))
    return torch.sigmoid(F.linear(squeezed, expand_weight.flatten(1), expand_bias))
