"""The operations that hold parameters, as modules, and the losses with their settings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyeqgan import functional

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

__all__ = [
    "ActivatedConv2d",
    "EqualizationFusion",
    "LayoutConv2d",
    "ModulatedNorm",
    "MultiScaleContrastiveLoss",
    "SkipDecoderBlock",
]

_NORMS: dict[str | None, type[nn.Module]] = {
    None: nn.Identity,
    "batch": nn.BatchNorm2d,
    "instance": nn.InstanceNorm2d,
}


def _make_norm(norm: str | None, channels: int, **options: bool) -> nn.Module:
    """The module that holds a norm's parameters: an affine batch norm, or nothing to hold."""
    if norm not in _NORMS:
        raise ValueError(f"norm: expected one of {', '.join(map(repr, _NORMS))}, got {norm!r}")
    return nn.Identity() if norm is None else _NORMS[norm](channels, **options)


def _norm_arguments(norm: nn.Module, prefix: str = "") -> dict[str, Any]:
    """The arguments a functional call takes from a norm module, which counts the batch as torch's own does."""
    statistics = _running_statistics(norm, prefix)
    if not statistics:
        return {}
    return {f"{prefix}norm_weight": norm.weight, f"{prefix}norm_bias": norm.bias, **statistics}


def _running_statistics(norm: nn.Module, prefix: str = "") -> dict[str, Any]:
    """Those of a batch norm, which counts the batch as torch's own does; nothing for another norm."""
    if isinstance(norm, nn.SyncBatchNorm):
        raise TypeError("expected norms of one process: the kernel takes the statistics, got SyncBatchNorm")
    if not isinstance(norm, nn.BatchNorm2d):
        return {}
    if norm.training and norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
    return {f"{prefix}running_mean": norm.running_mean, f"{prefix}running_var": norm.running_var}


def _activate(x: Tensor, activation: str | None, negative_slope: float) -> Tensor:
    if activation is None:
        return x
    return F.leaky_relu(x, negative_slope) if activation == "leaky_relu" else getattr(torch, activation)(x)


class EqualizationFusion(nn.Module):
    """Fuse structure and texture features (and details) of one scale and equalize the result.

    See :func:`pyeqgan.functional.equalization_fusion` for the maths and the source.

    Args:
        structure_channels, texture_channels: channels of the two inputs.
        channels: channels of the result.
        reduction: the channel gate squeezes to max(channels // reduction, 4).
        sigma: of the spatial propagation, in pixels.
        norm: "instance" (no parameters) or "batch" (affine, running statistics).
        detail_channels: channels of the third input; 0: there is none.

    Shape:
        structure (B,Cs,H,W), texture (B,Ct,H,W), detail (B,Cd,H,W) → (B,channels,H,W).
    """

    def __init__(
        self,
        structure_channels: int,
        texture_channels: int,
        channels: int,
        *,
        reduction: int = 16,
        sigma: float = 1.5,
        norm: str = "instance",
        detail_channels: int = 0,
    ) -> None:
        super().__init__()
        if norm not in ("instance", "batch"):
            raise ValueError(f"EqualizationFusion: norm: expected 'instance' or 'batch', got {norm!r}")
        squeezed = max(channels // reduction, 4)
        self.norm = norm
        self.sigma = sigma
        self.detail_channels = detail_channels
        self.fuse = nn.Conv2d(structure_channels + texture_channels + detail_channels, channels, 1)
        self.fuse_norm = _make_norm(norm, channels)
        self.gate_reduce = nn.Conv2d(channels, squeezed, 1)
        # Few units on an almost constant mean: with biases around 0 all ReLUs may start, and stay, dead (ours).
        nn.init.ones_(self.gate_reduce.bias)  # type: ignore[arg-type]
        self.gate_expand = nn.Conv2d(squeezed, channels, 1)
        self.out = nn.Conv2d(2 * channels, channels, 1, bias=False)
        self.out_norm = _make_norm(norm, channels)

    def forward(self, structure: Tensor, texture: Tensor, detail: Tensor | None = None) -> Tensor:
        """Return the equalized features (B,channels,H,W)."""
        if (detail is None) != (self.detail_channels == 0):
            expected = "None" if self.detail_channels == 0 else f"{self.detail_channels} channels"
            got = "None" if detail is None else f"shape {tuple(detail.shape)}"
            raise ValueError(f"EqualizationFusion: detail: expected {expected}, got {got}")
        return functional.equalization_fusion(
            structure,
            texture,
            self.fuse.weight,
            self.fuse.bias,
            self.gate_reduce.weight,
            self.gate_reduce.bias,
            self.gate_expand.weight,
            self.gate_expand.bias,
            self.out.weight,
            detail=detail,
            norm=self.norm,
            training=self.training,
            sigma=self.sigma,
            **_norm_arguments(self.fuse_norm, "fuse_"),
            **_norm_arguments(self.out_norm, "out_"),
        )

    def extra_repr(self) -> str:
        """The settings that printing the module shows."""
        return f"norm={self.norm!r}, sigma={self.sigma}"


class SkipDecoderBlock(nn.Module):
    """Upsample by two, join a skip connection, convolve 3×3, normalise and activate.

    See :func:`pyeqgan.functional.skip_decoder_block` for the maths and the source. With a
    :class:`torch.nn.SyncBatchNorm` in the place of ``norm`` the norm and the activation run apart.

    Args:
        in_channels, skip_channels, out_channels: of x, of the skip connection (0: there is none) and of the result.
        norm: None, "batch" or "instance".
        activation: None, "relu", "leaky_relu" or "tanh".
        negative_slope: of the leaky ReLU.
        bias: whether the convolution has a bias.

    Shape:
        x (B,Cx,H,W), skip (B,Cs,H,W) or (B,Cs,2H,2W) → (B,out_channels,2H,2W).
    """

    def __init__(
        self,
        in_channels: int,
        skip_channels: int,
        out_channels: int,
        *,
        norm: str | None = "batch",
        activation: str | None = "leaky_relu",
        negative_slope: float = 0.2,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.norm_type = norm
        self.activation = activation
        self.negative_slope = negative_slope
        self.skip_channels = skip_channels
        self.conv = nn.Conv2d(in_channels + skip_channels, out_channels, 3, bias=bias)
        self.norm = _make_norm(norm, out_channels)

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        """Return the block's output (B,out_channels,2H,2W)."""
        if (skip is None) != (self.skip_channels == 0):
            expected = "None" if self.skip_channels == 0 else f"{self.skip_channels} channels"
            got = "None" if skip is None else f"shape {tuple(skip.shape)}"
            raise ValueError(f"SkipDecoderBlock: skip: expected {expected}, got {got}")
        if isinstance(self.norm, nn.SyncBatchNorm):
            # Its statistics are of several processes: they cannot be taken inside the operation.
            y = functional.skip_decoder_block(x, skip, self.conv.weight, self.conv.bias, activation=None)
            return _activate(self.norm(y), self.activation, self.negative_slope)
        return functional.skip_decoder_block(
            x,
            skip,
            self.conv.weight,
            self.conv.bias,
            norm=self.norm_type,
            training=self.training,
            activation=self.activation,
            negative_slope=self.negative_slope,
            **_norm_arguments(self.norm),
        )

    def extra_repr(self) -> str:
        """The settings that printing the module shows."""
        return f"norm={self.norm_type!r}, activation={self.activation!r}"


class ActivatedConv2d(nn.Conv2d):
    """Activate, pad and convolve with stride 1, saving the input alone for backward.

    A :class:`torch.nn.Conv2d` in its parameters and state. See :func:`pyeqgan.functional.activated_conv2d`.

    Shape:
        (B,in_channels,H,W) → (B,out_channels,H+2·padding−k+1,W+2·padding−k+1).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        *,
        bias: bool = True,
        activation: str | None = "leaky_relu",
        negative_slope: float = 0.2,
        padding: int = 1,
        padding_mode: Literal["reflect", "zeros", "replicate"] = "reflect",
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, bias=bias, padding=padding, padding_mode=padding_mode)
        self.activation = activation
        self.negative_slope = negative_slope

    def forward(self, x: Tensor) -> Tensor:
        """Return conv(pad(act(x)))."""
        return functional.activated_conv2d(
            x,
            self.weight,
            self.bias,
            activation=self.activation,
            negative_slope=self.negative_slope,
            padding=int(self.padding[0]),
            padding_mode=self.padding_mode,
        )

    def extra_repr(self) -> str:
        """The settings that printing the module shows."""
        return f"{super().extra_repr()}, activation={self.activation!r}"  # type: ignore[no-untyped-call]


class ModulatedNorm(nn.Module):
    """Normalise, scale and shift every pixel by maps, activate: the normalisation of SPADE.

    See :func:`pyeqgan.functional.modulated_norm` for the maths and the source. It has no parameters; a batch norm
    holds running statistics. With a :class:`torch.nn.SyncBatchNorm` in the place of ``norm`` the norm runs apart.

    Args:
        channels: of x, gamma and beta.
        norm: None, "batch" or "instance", without parameters of its own.
        activation: None, "relu", "leaky_relu" or "tanh".
        negative_slope: of the leaky ReLU.

    Shape:
        x (B,channels,H,W), gamma and beta (B,channels,H,W) or (B,channels) → (B,channels,H,W).
    """

    def __init__(
        self,
        channels: int,
        *,
        norm: str | None = "instance",
        activation: str | None = "leaky_relu",
        negative_slope: float = 0.2,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.norm_type = norm
        self.activation = activation
        self.negative_slope = negative_slope
        self.norm = _make_norm(norm, channels, affine=False)

    def forward(self, x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        """Return act(norm(x)·(1 + gamma) + beta)."""
        apart = isinstance(self.norm, nn.SyncBatchNorm)  # its statistics are of several processes
        return functional.modulated_norm(
            self.norm(x) if apart else x,
            gamma,
            beta,
            norm=None if apart else self.norm_type,
            training=self.training,
            activation=self.activation,
            negative_slope=self.negative_slope,
            **({} if apart else _running_statistics(self.norm)),
        )

    def extra_repr(self) -> str:
        """The settings that printing the module shows."""
        return f"{self.channels}, norm={self.norm_type!r}, activation={self.activation!r}"


class LayoutConv2d(nn.Conv2d):
    """Convolve the one-hot form of a layout without making it, and activate.

    A :class:`torch.nn.Conv2d` of ``num_classes`` channels in its parameters, initialisation and state. See
    :func:`pyeqgan.functional.layout_conv2d`.

    Shape:
        labels (B,H,W) int64 → (B,out_channels,(H+2·padding−k)//stride+1,(W+2·padding−k)//stride+1).
    """

    def __init__(
        self,
        num_classes: int,
        out_channels: int,
        kernel_size: int = 3,
        *,
        stride: int = 1,
        padding: int = 0,
        bias: bool = True,
        ignore_index: int = -1,
        activation: str | None = None,
        negative_slope: float = 0.2,
    ) -> None:
        super().__init__(num_classes, out_channels, kernel_size, stride=stride, padding=padding, bias=bias)
        self.ignore_index = ignore_index
        self.activation = activation
        self.negative_slope = negative_slope

    def forward(self, labels: Tensor) -> Tensor:
        """Return act(conv(one_hot(labels)))."""
        return functional.layout_conv2d(
            labels,
            self.weight,
            self.bias,
            stride=int(self.stride[0]),
            padding=int(self.padding[0]),
            ignore_index=self.ignore_index,
            activation=self.activation,
            negative_slope=self.negative_slope,
        )

    def extra_repr(self) -> str:
        """The settings that printing the module shows."""
        return f"{super().extra_repr()}, activation={self.activation!r}"  # type: ignore[no-untyped-call]


class MultiScaleContrastiveLoss(nn.Module):
    """The contrastive loss within and across the scales of a feature pyramid.

    See :func:`pyeqgan.functional.multiscale_contrastive_loss`.

    Args:
        temperature: its (initial) value, > 0.
        learned_temperature: make log(temperature) a parameter, so that training keeps it positive.
        mode, scale_weights, cross_scale, cross_weight, ignore_index, max_pixels, rows_per_image: as in the function.

    Shape:
        features: list of (B,D,h_s,w_s); labels (B,H,W) int64 → 0-d.
    """

    def __init__(
        self,
        *,
        temperature: float = 0.1,
        learned_temperature: bool = False,
        mode: str = "per_positive",
        scale_weights: Sequence[float] | None = None,
        cross_scale: Sequence[tuple[int, int]] = (),
        cross_weight: float = 1.0,
        ignore_index: int = -1,
        max_pixels: int | None = None,
        rows_per_image: int | None = None,
    ) -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"MultiScaleContrastiveLoss: temperature: expected a number > 0, got {temperature}")
        self.temperature = temperature
        self.log_temperature = nn.Parameter(torch.tensor(float(temperature)).log()) if learned_temperature else None
        self.mode = mode
        self.scale_weights = scale_weights
        self.cross_scale = tuple(cross_scale)
        self.cross_weight = cross_weight
        self.ignore_index = ignore_index
        self.max_pixels = max_pixels
        self.rows_per_image = rows_per_image

    def forward(
        self,
        features: Sequence[Tensor],
        labels: Tensor,
        *,
        generator: torch.Generator | None = None,
        group: ProcessGroup | None = None,
    ) -> Tensor:
        """Return the loss of the pyramid, with ``generator`` and ``group`` as in the function."""
        temperature = self.temperature if self.log_temperature is None else self.log_temperature.exp()
        return functional.multiscale_contrastive_loss(
            features,
            labels,
            temperature=temperature,
            mode=self.mode,
            scale_weights=self.scale_weights,
            cross_scale=self.cross_scale,
            cross_weight=self.cross_weight,
            ignore_index=self.ignore_index,
            max_pixels=self.max_pixels,
            rows_per_image=self.rows_per_image,
            generator=generator,
            group=group,
        )

    def extra_repr(self) -> str:
        """The settings that printing the module shows."""
        return f"mode={self.mode!r}, temperature={self.temperature}, cross_scale={self.cross_scale}"
