"""``equalization_fusion`` in Triton: the maths of ops.md section 3, forward and backward.

Forward: the product of the maps that are fused; its norm and activation, with their sums over pixels; the gate, of
which torch computes the few numbers; the propagation of what is gated on load, straight into the second product; its
norm and activation. The norms' moments are summed where the products are written. Backward, X and what is propagated of
it are computed again. Any strides; float32, bfloat16 and float16, all sums in float32; no atomics.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pyeqgan.kernels import _equalization as kernels
from pyeqgan.kernels import bilateral_propagation as bilateral
from pyeqgan.kernels._launch import blocks, groups, strided
from pyeqgan.kernels._norm import Norm, statistics
from pyeqgan.kernels._products import arithmetic, family
from pyeqgan.kernels.activated_conv2d import Convolution, input_gradient, weight_gradient
from pyeqgan.ops._library import empty_image
from pyeqgan.ops._norm import empty_statistics

# Tiles by what they compile to, never timed.
FUSE = family("equalization_fuse", ("out_channels", "height", "width"), kernels.fuse)
MIX = family("equalization_mix", ("channels", "out_channels", "height", "width"), kernels.propagate_and_mix)


class _Gate(NamedTuple):
    """The channel gate of squeeze and excitation, and its gradients: a few numbers an image, by torch in float32."""

    reduce_weight: Tensor
    reduce_bias: Tensor | None
    expand_weight: Tensor
    expand_bias: Tensor | None

    def _squeezed(self, mean: Tensor) -> Tensor:
        bias = None if self.reduce_bias is None else self.reduce_bias.float()
        return F.relu(F.linear(mean, self.reduce_weight.float().flatten(1), bias))

    def values(self, mean: Tensor) -> Tensor:
        """Of the means over pixels (B,C): (B,C), both float32."""
        bias = None if self.expand_bias is None else self.expand_bias.float()
        return torch.sigmoid(F.linear(self._squeezed(mean), self.expand_weight.float().flatten(1), bias))

    def gradients(self, grad: Tensor, mean: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The gradient of the means, and those of the four parameters, float32."""
        gate, squeezed = self.values(mean), self._squeezed(mean)
        expanded = grad.float() * gate * (1 - gate)
        reduced = (expanded @ self.expand_weight.float().flatten(1)) * (squeezed > 0)
        of_weights = [(g.T @ x)[:, :, None, None] for g, x in ((reduced, mean), (expanded, squeezed))]
        parameters = [of_weights[0], reduced.sum(0), of_weights[1], expanded.sum(0)]
        return reduced @ self.reduce_weight.float().flatten(1), parameters


def _launch(
    kernel: Any, read: list[Any], y: Tensor, own: bool, numbers: tuple[Any, ...], precision: str
) -> Tensor | None:
    """Run a product into y; returns the moments (B,blocks,3,C) of its parts if its norm has statistics of its own."""
    batch, channels = y.shape[:2]
    smallest = min(c.kwargs["PIXELS"] for c in kernel.configs)
    moments = y.new_empty(batch * blocks(y, smallest) * 3 * channels, dtype=torch.float32) if own else None

    def grid(meta: dict[str, int]) -> tuple[int, int]:
        return batch * blocks(y, meta["PIXELS"]), groups(y, meta["OUT"])

    kernel[grid](*read, *strided(y), moments, *numbers, PRECISION=precision)
    if moments is None:
        return None
    used = blocks(y, kernel.best_config.kwargs["PIXELS"])
    return moments[: batch * used * 3 * channels].view(batch, used, 3, channels)


def _shares(maps: list[Tensor], weight: Tensor) -> tuple[Tensor, ...]:
    """Of the weight (C,Cs+Ct+Cd,1,1), by maps."""
    return torch.split(weight, [m.shape[1] for m in maps], 1)


def _own(norm: str | None, training: bool) -> bool:
    """Whether a norm's statistics are those of what it normalises."""
    return norm == "instance" or (norm == "batch" and training)


def forward(
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
    """The operation ``pyeqgan::equalization_fusion``: y and what it saves.

    Raises:
        TypeError: structure is of another dtype than float32, bfloat16, float16.
    """
    products, precision = arithmetic("equalization_fusion", "structure", structure.dtype)
    batch, _, *size = structure.shape
    channels, features = fuse_weight.shape[0], out_weight.shape[0]
    own = _own(norm, training)

    def normalized(
        parts: Tensor | None,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        running_mean: Tensor | None,
        running_var: Tensor | None,
    ) -> Norm:
        mean, var = (empty_statistics(x, norm, x.shape[1]).zero_() for _ in range(2))
        if norm is not None and (x.numel() or not own):
            mean, var = statistics(norm, running_mean, running_var, parts)
        return Norm(norm, weight, bias, mean, var, own, eps, "leaky_relu", negative_slope)

    fused, x = (empty_image(structure, channels) for _ in range(2))
    mixed, y = (empty_image(structure, features) for _ in range(2))
    parts: list[Tensor | None] = [None, None]
    with torch.cuda.device_of(structure):
        maps = [m for m in (structure, texture, detail) if m is not None]
        if fused.numel():
            read: list[Any] = []
            for m, share in zip(maps, _shares(maps, fuse_weight), strict=True):
                read += [*strided(m), Convolution(share).packed, m.shape[1]]
            if detail is None:
                read += [*strided(None), None, 0]
            read.append(None if fuse_bias is None else fuse_bias.contiguous())
            parts[0] = _launch(FUSE[products], read, fused, own, (channels, *size), precision)
        fuse_norm = normalized(parts[0], fused, fuse_norm_weight, fuse_norm_bias, fuse_running_mean, fuse_running_var)
        pooled = fuse_norm.apply(fused, x, pooled=True) if fused.numel() else None
        if pooled is None:
            pooled = fused.new_zeros((batch, channels), dtype=torch.float32)
        squeeze = _Gate(gate_reduce_weight, gate_reduce_bias, gate_expand_weight, gate_expand_bias)
        gate = squeeze.values(pooled / max(size[0] * size[1], 1)).to(structure.dtype)
        affinity = bilateral.affinity_of(x, gate)
        if mixed.numel():
            scratch, inverse_y, reach = bilateral.filtered_rows(x, gate, sigma, radius)
            packed = Convolution(out_weight).packed
            read = [*strided(x), gate, affinity, inverse_y, scratch, packed]
            numbers = (channels, features, *size, sigma, reach)
            parts[1] = _launch(MIX[products], read, mixed, own, numbers, precision)
        out_norm = normalized(parts[1], mixed, out_norm_weight, out_norm_bias, out_running_mean, out_running_var)
        if mixed.numel():
            out_norm.apply(mixed, y)
    return y, fused, fuse_norm.mean, fuse_norm.var, pooled, gate, affinity, mixed, out_norm.mean, out_norm.var


def backward(
    grad_y: Tensor,
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
    fused: Tensor,
    fuse_mean: Tensor,
    fuse_var: Tensor,
    pooled: Tensor,
    gate: Tensor,
    affinity: Tensor,
    mixed: Tensor,
    out_mean: Tensor,
    out_var: Tensor,
    norm: str | None,
    training: bool,
    eps: float,
    sigma: float,
    radius: int,
    negative_slope: float,
    needs: list[bool],
) -> list[Tensor]:
    """The operation ``pyeqgan::equalization_fusion_backward``; (0,) for a gradient that is not needed.

    Raises:
        TypeError: structure is of another dtype than float32, bfloat16, float16.
    """
    products, precision = arithmetic("equalization_fusion_backward", "structure", structure.dtype)
    inputs = (
        structure, texture, detail, fuse_weight, fuse_bias, gate_reduce_weight, gate_reduce_bias, gate_expand_weight,
        gate_expand_bias, out_weight, fuse_norm_weight, fuse_norm_bias, out_norm_weight, out_norm_bias,
    )  # fmt: skip
    found: dict[int, Tensor] = {}
    own = _own(norm, training)
    pixels = structure.shape[2] * structure.shape[3]
    with torch.cuda.device_of(structure):
        if fused.numel() and mixed.numel():
            after = (own, eps, "leaky_relu", negative_slope)
            out_norm = Norm(norm, out_norm_weight, out_norm_bias, out_mean, out_var, *after)
            grad_mixed, found[12], found[13] = out_norm.gradients(grad_y, mixed)
            fuse_norm = Norm(norm, fuse_norm_weight, fuse_norm_bias, fuse_mean, fuse_var, *after)
            x = torch.empty_like(fused)
            fuse_norm.apply(fused, x)
            out_product = Convolution(out_weight)
            propagated = empty_image(x, 2 * x.shape[1])
            if needs[9]:
                propagated = bilateral.propagate(x, gate, affinity, sigma, radius)
                found[9] = weight_gradient(grad_mixed, propagated, out_product, products, precision)
            if any(need for i, need in enumerate(needs) if i not in (9, 12, 13)):
                grad = input_gradient(grad_mixed, propagated, out_product, products, precision)
                grad_x, grad_gate = bilateral.backward(grad, x, gate, affinity, sigma, radius, True, True)
                squeeze = _Gate(gate_reduce_weight, gate_reduce_bias, gate_expand_weight, gate_expand_bias)
                grad_mean, of_gate = squeeze.gradients(grad_gate, pooled / pixels)
                found.update(enumerate(of_gate, start=5))
                grad_fused, found[10], found[11] = fuse_norm.gradients(grad_x, fused, grad_mean / pixels)
                maps = [(i, m) for i, m in enumerate((structure, texture, detail)) if m is not None]
                shares = [Convolution(w) for w in _shares([m for _, m in maps], fuse_weight)]
                if needs[3]:
                    each = zip(maps, shares, strict=True)
                    found[3] = torch.cat(
                        [weight_gradient(grad_fused, m, s, products, precision) for (_, m), s in each], 1
                    )
                # A norm by the batch's own statistics takes any bias away.
                found[4] = fuse_weight.new_zeros(len(fuse_weight)) if own else grad_fused.sum((0, 2, 3))
                for (i, m), share in zip(maps, shares, strict=True):
                    if needs[i]:
                        found[i] = input_gradient(grad_fused, m, share, products, precision)
    grads = []
    for i, (value, need) in enumerate(zip(inputs, needs, strict=True)):
        if value is None or not need:
            grads.append(grad_y.new_empty(0))
        elif i in found:
            grads.append(found[i].to(value.dtype))
        else:
            grads.append(torch.zeros_like(value) if i > 2 else empty_image(value, value.shape[1]).zero_())
    return grads
