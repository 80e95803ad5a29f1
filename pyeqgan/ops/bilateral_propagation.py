"""``bilateral_propagation``: the spatial and range propagation of feature equalization (MEDFE, ECCV 2020)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyeqgan import reference
from pyeqgan.ops import _checks as check
from pyeqgan.ops import _library as library

NAME = "bilateral_propagation"


def bilateral_propagation(
    x: Tensor, gate: Tensor | None = None, *, sigma: float = 1.5, radius: int | None = None
) -> Tensor:
    """Propagate features to their spatial neighbours and to the neighbours that resemble them.

    With v = gate·x, the result is y = cat[y_s, y_r]:

    - spatial: y_s = A_H v A_Wᵀ per channel, A_ij = exp(−(i−j)²/2σ²) for |i−j| ≤ radius inside the map, every row
      normalised to sum 1;
    - range: y_r,i = Σ_j a_ij v_j over the 3×3 neighbours j of pixel i (itself included), a_i· = softmax_j z_ij,
      z_ij = (1/C) Σ_c sigmoid(v_ic)·sigmoid(v_jc). A neighbour outside the map has z = 0 and v = 0 and keeps its
      share of the softmax.

    Args:
        x: (B,C,H,W), float32, float64, bfloat16 or float16; any strides. Sums are kept in float32 (float64 for
            float64).
        gate: (B,C) in the dtype of x, or None for no gate.
        sigma: standard deviation of the spatial Gaussian, in pixels; > 0.
        radius: its truncation, in pixels; ≥ 0. None takes ceil(5·sigma).

    Returns:
        (B,2C,H,W) in the dtype and memory format of x: y_s, then y_r. Differentiable twice in x and gate.
        Saved for backward: x, gate and 9 numbers a pixel, where the published form materialises B·C·(HW)².

    Raises:
        TypeError: an argument is not a tensor or has another dtype.
        ValueError: an argument has a wrong rank, size or device, sigma is not a finite number > 0, or radius < 0.
        NotImplementedError: forward-mode differentiation.

    Source: Liu et al., "Rethinking Image Inpainting via a Mutual Encoder-Decoder with Feature Equalizations",
    ECCV 2020, section 3.2; the gate is its channel equalization.
    """
    check.tensor(NAME, "x", x, shape=("B", "C", "H", "W"))
    x, gate = library.autocast(x, gate)
    if gate is not None:
        check.tensor(NAME, "gate", gate, shape=x.shape[:2], dtype=x.dtype, device=x.device)
    sigma = check.number(NAME, "sigma", sigma, positive=True)
    radius = reference.spatial_radius(sigma, radius)
    check.integer(NAME, "radius", radius, minimum=0)
    check.no_forward_mode(NAME, x, gate)
    y: Tensor = torch.ops.pyeqgan.bilateral_propagation.default(x, gate, sigma, radius)[0]
    return y


def _oracle(x: Tensor, gate: Tensor | None, sigma: float, radius: int) -> tuple[Tensor, Tensor]:
    y, affinity = reference.bilateral_propagation_with_affinity(x, gate, sigma, radius)
    return y.contiguous(memory_format=library.memory_format_of(x)), affinity.contiguous()


def _fake(x: Tensor, gate: Tensor | None, sigma: float, radius: int) -> tuple[Tensor, Tensor]:
    batch, channels, height, width = x.shape
    affinity = x.new_empty((batch, 9, height, width), dtype=reference.accumulation_dtype(x.dtype))
    return library.empty_image(x, 2 * channels), affinity


def _backward_oracle(
    grad_y: Tensor,
    x: Tensor,
    gate: Tensor | None,
    affinity: Tensor,
    sigma: float,
    radius: int,
    need_x: bool,
    need_gate: bool,
) -> tuple[Tensor, Tensor]:
    grad_x, grad_gate = library.composed_backward(
        lambda x, gate: _oracle(x, gate, sigma, radius)[0], (x, gate), (grad_y,), (need_x, need_gate)
    )
    if need_x:
        grad_x = grad_x.contiguous(memory_format=library.memory_format_of(x))
    return grad_x, grad_gate


def _backward_fake(
    grad_y: Tensor,
    x: Tensor,
    gate: Tensor | None,
    affinity: Tensor,
    sigma: float,
    radius: int,
    need_x: bool,
    need_gate: bool,
) -> tuple[Tensor, Tensor]:
    grad_x = library.empty_image(x, x.shape[1]) if need_x else x.new_empty(0)
    return grad_x, x.new_empty(x.shape[:2] if need_gate else 0)


library.define(
    f"{NAME}(Tensor x, Tensor? gate, float sigma, int radius) -> (Tensor y, Tensor affinity)",
    oracle=_oracle,
    fake=_fake,
)
library.define(
    f"{NAME}_backward(Tensor grad_y, Tensor x, Tensor? gate, Tensor affinity, float sigma, int radius, "
    "bool need_x, bool need_gate) -> (Tensor grad_x, Tensor grad_gate)",
    oracle=_backward_oracle,
    fake=_backward_fake,
)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, gate, ctx.sigma, ctx.radius = inputs
    ctx.save_for_backward(x, gate, output[1])
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad_y: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad_y is None:
        return None, None, None, None
    x, gate, affinity = ctx.saved_tensors
    need_x, need_gate = ctx.needs_input_grad[:2]
    grad_x, grad_gate = torch.ops.pyeqgan.bilateral_propagation_backward.default(
        grad_y, x, gate, affinity, ctx.sigma, ctx.radius, need_x, need_gate
    )
    return library.optional(grad_x, need_x), library.optional(grad_gate, need_gate), None, None


library.differentiate(NAME, _backward, _setup_context)
library.differentiate_composed(f"{NAME}_backward")
