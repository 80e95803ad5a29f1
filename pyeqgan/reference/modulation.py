"""Modulated normalisation: an image tells each pixel of another its scale and shift (SPADE, CVPR 2019)."""

from __future__ import annotations

from torch import Tensor

from pyeqgan.reference.arithmetic import accumulation_dtype, activate, normalize, update_running_statistics


def modulated_norm(
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    *,
    norm: str | None = "instance",
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    activation: str | None = "leaky_relu",
    negative_slope: float = 0.2,
) -> Tensor:
    """Normalise, modulate, activate. See :func:`pyeqgan.functional.modulated_norm`."""
    y, mean, var = modulated_norm_with_statistics(
        x,
        gamma,
        beta,
        norm=norm,
        running_mean=running_mean,
        running_var=running_var,
        training=training,
        eps=eps,
        activation=activation,
        negative_slope=negative_slope,
    )
    if norm == "batch" and training:
        update_running_statistics(running_mean, running_var, mean, var, momentum, x.numel() // max(x.shape[1], 1))
    return y


def modulated_norm_with_statistics(
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    *,
    norm: str | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    eps: float,
    activation: str | None,
    negative_slope: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The result, and the mean and variance that the norm used."""
    dtype = accumulation_dtype(x.dtype)
    scale, shift = (t.to(dtype) if t.dim() == 4 else t.to(dtype)[:, :, None, None] for t in (gamma, beta))
    normalized, mean, var = normalize(x.to(dtype), norm, None, None, running_mean, running_var, training, eps)
    y = activate(normalized * (1 + scale) + shift, activation, negative_slope)
    return y.to(x.dtype), mean, var
