"""A norm and the activation behind it, as the operations that have one launch them."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
from torch import Tensor

from pyeqgan.kernels import _normalization as kernels
from pyeqgan.kernels._launch import blocks, over_image, strided


def statistics(
    norm: str | None, running_mean: Tensor | None, running_var: Tensor | None, parts: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Mean and variance in float32: those given, or merged from the moments (B,parts,3,C) of parts of the images."""
    if parts is None:
        assert running_mean is not None and running_var is not None
        return running_mean.float().clone(), running_var.float().clone()
    if norm == "batch":
        parts = parts.flatten(0, 1)[None]
    number, count, _, channels = parts.shape
    mean, var = (parts.new_empty((number, channels)) for _ in range(2))
    if mean.numel():
        with torch.cuda.device_of(parts):
            kernels.join_moments[lambda meta: (number * triton.cdiv(channels, meta["CHANNELS"]),)](
                parts, mean, var, count, channels
            )
    return (mean[0], var[0]) if norm == "batch" else (mean, var)


class Norm(NamedTuple):
    """What is done to the result of a product, z = (x − mean)/σ·weight + bias, and its activation."""

    norm: str | None
    weight: Tensor | None
    bias: Tensor | None
    mean: Tensor  # (C), or (B,C) of an instance norm
    var: Tensor
    own: bool  # whether the statistics are those of x
    eps: float
    activation: str | None
    negative_slope: float

    def _affine(self, parameter: Tensor | None, otherwise: float) -> Tensor:
        """A parameter of the norm in float32, (C)."""
        if parameter is None:
            return self.mean.new_full(self.mean.shape[-1:], otherwise)
        return parameter.float().contiguous()

    def apply(self, x: Tensor, y: Tensor, pooled: bool = False) -> Tensor | None:
        """Fill y; returns, if asked for, its sums over pixels, (B,C) float32."""
        batch, channels = x.shape[:2]
        sums = None
        if pooled:
            smallest = min(c.kwargs["PIXELS"] for c in kernels.normalize.configs)
            sums = x.new_empty(batch * blocks(x, smallest) * channels, dtype=torch.float32)
        given: tuple[Tensor | None, ...] = (None, None, None)
        if self.norm is not None:
            scale = torch.rsqrt(self.var + self.eps) * self._affine(self.weight, 1.0)
            given = (self.mean, scale, self._affine(self.bias, 0.0))
        kernels.normalize[over_image(x)](
            *strided(x), *given, int(self.norm == "instance"), *strided(y), sums,
            channels, *x.shape[2:], self.negative_slope, ACTIVATION=self.activation,
        )  # fmt: skip
        if sums is None:
            return None
        used = blocks(x, kernels.normalize.best_config.kwargs["PIXELS"])
        return sums[: batch * used * channels].view(batch, used, channels).sum(1)

    def gradients(self, grad_y: Tensor, x: Tensor, pooled: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """The gradient of x, like x, and those of weight and bias, (C) float32; x may be y where there is no norm.

        Args:
            grad_y: of y.
            x: as it was normalised.
            pooled: (B,C) float32, added to the gradient of y at every pixel.
        """
        grad = torch.empty_like(x)
        batch, channels = x.shape[:2]
        size = (channels, *x.shape[2:], self.negative_slope)
        read = (*strided(grad_y), pooled, *strided(x))
        if x.numel() == 0:
            return grad, self.mean.new_zeros(channels), self.mean.new_zeros(channels)
        if self.norm is None:
            kernels.normalize_backward[over_image(x)](
                *read, *(None,) * 6, 0, *strided(grad), *size, ACTIVATION=self.activation
            )
            return grad, self.mean, self.mean
        per_image = int(self.norm == "instance")
        inverse = torch.rsqrt(self.var + self.eps)
        given = (self.mean, inverse, self._affine(self.weight, 1.0), self._affine(self.bias, 0.0))
        smallest = min(c.kwargs["PIXELS"] for c in kernels.sum_gradients.configs)
        sums = self.mean.new_empty(batch * blocks(x, smallest) * 2 * channels)
        kernels.sum_gradients[over_image(x)](*read, *given, per_image, sums, *size, ACTIVATION=self.activation)
        used = blocks(x, kernels.sum_gradients.best_config.kwargs["PIXELS"])
        of_images = sums[: batch * used * 2 * channels].view(batch, used, 2, channels).sum(1)
        total = of_images.sum(0)
        means = (of_images if per_image else total[None]) / (x.numel() // channels // (batch if per_image else 1))
        mean_grad, mean_product = (means if self.own else torch.zeros_like(means)).transpose(0, 1).contiguous()
        kernels.normalize_backward[over_image(x)](
            *read, *given, mean_grad, mean_product, per_image, *strided(grad), *size, ACTIVATION=self.activation
        )
        return grad, total[1], total[0]
