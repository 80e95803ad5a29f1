"""What a swapped container calls in the place of a chain of layers: the kernel, or else the layers themselves.

A chain is given its layers at every call, as the container then has them, and looks at each of them again: whatever
has become of them since the swap (another stride, a hook, another device), it computes what they compute.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from pyeqgan import backends, functional
from pyeqgan.patch import layers as of
from pyeqgan.patch.layers import Unfit

Layers = dict[str, nn.Module]

# Measured, forward and backward, on one core with AVX-512: below, PyTorch's own 3×3 convolution is the faster one.
LEAST_CHANNELS = 32

_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


class Chain:
    """Layers that one kernel computes.

    Args:
        literals: the layers that were written as functions, by role (see `layers.ROLES`); the other roles'
            layers are given at the call.
    """

    operation: str
    roles: Sequence[str]
    __call__: Callable[..., Tensor]
    __module__ = __name__

    def __init__(self, literals: Layers) -> None:
        self.literals = literals
        self.__name__ = self.operation  # by it the graph's code calls it

    def check(self, layers: Layers) -> None:
        """Whether the kernel computes these layers.

        Raises:
            Unfit: it does not, with the reason.
        """
        for role, layer in layers.items():
            if of.kind(layer) != role:
                raise Unfit(f"{type(layer).__name__} in the place of a layer of kind {role}")
            of.check_absorbed(layer)

    def _runs(self, layers: Layers, *inputs: Tensor | None) -> bool:
        """Whether the kernel takes this call; nothing has been computed yet."""
        if torch.nn.modules.module._has_any_global_hook() or torch._C._are_functorch_transforms_active():
            return False
        if forward_ad._current_level >= 0 or not all(i is None or _plain(i) for i in inputs):
            return False
        try:
            self.check(layers)
        except Unfit:
            return False
        assert inputs[0] is not None
        return backends.has_kernel(self.operation, inputs[0].device.type)


def _plain(x: Any) -> bool:
    return type(x) in (Tensor, nn.Parameter) and x.dim() == 4 and x.dtype in _DTYPES and x.layout == torch.strided


class ActivatedConv(Chain):
    """Activation, padding, 3×3 convolution: `activated_conv2d`."""

    operation = "activated_conv2d"
    roles = ("activation", "pad", "conv")

    def check(self, layers: Layers) -> None:
        """As in `Chain`; the padding may be the convolution's own."""
        super().check(layers)
        conv, activation = layers["conv"], layers["activation"]
        assert isinstance(conv, nn.Conv2d)
        of.check_conv(conv)
        if min(conv.in_channels, conv.out_channels) < LEAST_CHANNELS:
            raise Unfit(
                f"{conv.in_channels} to {conv.out_channels} channels: below {LEAST_CHANNELS} PyTorch's own is faster"
            )
        mode = of.border(layers.get("pad"), conv)[1]
        if mode == "circular":
            raise Unfit("circular padding: the kernel reflects, replicates or pads with zeros")
        of.activation_options(activation)
        if getattr(activation, "inplace", False):
            raise Unfit("the activation works in place: its input would no longer be overwritten")

    def __call__(self, x: Tensor, **given: nn.Module) -> Tensor:
        """What the layers compute of x."""
        layers = {**self.literals, **given}
        if not self._runs(layers, x):
            for role in self.roles:
                x = layers[role](x) if role in layers else x
            return x
        conv = layers["conv"]
        assert isinstance(conv, nn.Conv2d)
        padding, mode = of.border(layers.get("pad"), conv)
        weight, bias = of.weights(conv)
        return functional.activated_conv2d(
            x,
            weight,
            bias,
            padding=padding,
            padding_mode=mode,
            **of.activation_options(layers["activation"]),
        )


class DecoderBlock(Chain):
    """Upsampling by two, a skip connection, padding, 3×3 convolution, norm, activation: `skip_decoder_block`.

    After nearest upsampling the pixel beyond the border is the border's own, whether it is reflected or replicated:
    both paddings are the kernel's, but not where a skip connection joins at the fine size.
    """

    operation = "skip_decoder_block"
    roles = ("upsample", "pad", "conv", "norm", "activation")

    def __init__(self, literals: Layers, joined: str | None = None) -> None:
        super().__init__(literals)
        self.joined = joined  # "fine": after the upsampling; "coarse": before it; None: no skip connection

    def check(self, layers: Layers) -> None:
        """As in `Chain`; padding may be the convolution's own; norm and activation may be missing."""
        super().check(layers)
        conv, norm = layers["conv"], layers.get("norm")
        assert isinstance(conv, nn.Conv2d)
        of.check_upsample(layers["upsample"])
        of.check_conv(conv)
        amount, mode = of.border(layers.get("pad"), conv)
        if amount != 1:
            raise Unfit(f"padding of {amount} pixels: the kernel has one")
        if mode not in ("reflect", "replicate"):
            raise Unfit(f"padding mode {mode!r}: the kernel's borders are reflected")
        if mode == "replicate" and self.joined == "fine":
            raise Unfit("replicate padding of a skip connection: the kernel's borders are reflected")
        of.check_norm(norm)
        of.activation_options(layers.get("activation"))

    def __call__(
        self, x: Tensor, skip: Tensor | None = None, upsampled: Tensor | None = None, **given: nn.Module
    ) -> Tensor:
        """What the layers compute of x and a skip connection; ``upsampled`` is given where others need it, too."""
        layers = {**self.literals, **given}
        if not self._runs(layers, x, skip):
            return self._layer_by_layer(x, skip, upsampled, layers)
        conv = layers["conv"]
        assert isinstance(conv, nn.Conv2d)
        weight, bias = of.weights(conv)
        return functional.skip_decoder_block(
            x,
            skip,
            weight,
            bias,
            **of.norm_arguments(layers.get("norm")),
            **of.activation_options(layers.get("activation")),
        )

    def _layer_by_layer(self, x: Tensor, skip: Tensor | None, upsampled: Tensor | None, layers: Layers) -> Tensor:
        if self.joined == "coarse":
            x = torch.cat([x, skip], 1)  # type: ignore[list-item]
        y: Tensor = layers["upsample"](x) if upsampled is None else upsampled
        if self.joined == "fine":
            y = torch.cat([y, skip], 1)  # type: ignore[list-item]
        for role in self.roles[1:]:
            y = layers[role](y) if role in layers else y
        return y
