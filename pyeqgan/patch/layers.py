"""Which of torch's layers the kernels compute, and the exact reason where they do not."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

ROLES: dict[type[nn.Module], str] = {
    nn.Upsample: "upsample",
    nn.UpsamplingNearest2d: "upsample",
    nn.UpsamplingBilinear2d: "upsample",
    nn.ReflectionPad2d: "pad",
    nn.ReplicationPad2d: "pad",
    nn.ZeroPad2d: "pad",
    nn.ConstantPad2d: "pad",
    nn.CircularPad2d: "pad",
    nn.Conv2d: "conv",
    nn.BatchNorm2d: "norm",
    nn.InstanceNorm2d: "norm",
    nn.LeakyReLU: "activation",
    nn.ReLU: "activation",
    nn.Tanh: "activation",
}
PADDING_MODES = {nn.ReflectionPad2d: "reflect", nn.ReplicationPad2d: "replicate", nn.CircularPad2d: "circular"}
ACTIVATIONS = {nn.LeakyReLU: "leaky_relu", nn.ReLU: "relu", nn.Tanh: "tanh"}

# Forward pre-hooks that compute a layer's weight and look at no input: a convolution's are run, as its call would.
WEIGHT_HOOKS = (SpectralNorm, WeightNorm, BasePruningMethod)


class Unfit(Exception):  # noqa: N818  (it is an answer, not a failure)
    """Why a kernel does not compute these layers, in words for the report."""


def kind(layer: nn.Module | None) -> str | None:
    """The role a layer can play in a chain, or None. A subclass may compute anything: None."""
    return None if layer is None else ROLES.get(parametrize.type_before_parametrizations(layer))


def hooked(module: nn.Module) -> bool:
    """Whether calling the module runs hooks."""
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )


def check_absorbed(layer: nn.Module) -> None:
    """A layer that is no longer called must have nobody who waits for the call."""
    waiting = [hook for hook in layer._forward_pre_hooks.values() if not isinstance(hook, WEIGHT_HOOKS)]
    if layer._forward_hooks or layer._backward_hooks or layer._backward_pre_hooks or waiting:
        raise Unfit(f"{type(layer).__name__} has a hook, which would not fire")
    if layer._forward_pre_hooks and kind(layer) != "conv":
        raise Unfit(f"{type(layer).__name__} has a hook for its weight: the kernel runs those of convolutions")
    if "forward" in vars(layer):
        raise Unfit(f"{type(layer).__name__} has a forward of its own instance")


def check_upsample(layer: nn.Module) -> None:
    """Nearest-neighbour upsampling by two."""
    if layer.mode not in ("nearest", "nearest-exact"):
        raise Unfit(f"upsampling mode {layer.mode!r}: the kernel takes the nearest neighbour")
    scale = layer.scale_factor
    if layer.size is not None or scale not in (2, (2, 2)):
        raise Unfit(f"upsampling to size {layer.size}, by {scale}: the kernel upsamples by 2")


def check_conv(conv: nn.Conv2d) -> None:
    """The convolutions for which the kernels beat PyTorch's own: 3×3, dense, stride 1."""
    for name, value, expected in (
        ("kernel size", conv.kernel_size, (3, 3)),
        ("stride", conv.stride, (1, 1)),
        ("dilation", conv.dilation, (1, 1)),
        ("groups", conv.groups, 1),
    ):
        if value != expected:
            raise Unfit(f"convolution of {name} {value}: the kernel has {expected}")


def border(pad: nn.Module | None, conv: nn.Conv2d) -> tuple[int, str]:
    """How many pixels stand around the map that a 3×3 convolution reads, and by which rule."""
    own = {"valid": (0, 0), "same": (1, 1)}.get(conv.padding, conv.padding)  # type: ignore[arg-type]
    if pad is None or tuple(pad.padding) == (0, 0, 0, 0):  # type: ignore[arg-type]
        if own[0] != own[1]:
            raise Unfit(f"padding {own}: the kernel pads every side alike")
        return int(own[0]), conv.padding_mode
    if own != (0, 0):
        raise Unfit(f"padded twice, by {type(pad).__name__} and by the convolution's own padding {conv.padding}")
    amounts = set(pad.padding)  # type: ignore[arg-type]
    if len(amounts) > 1 or min(amounts) < 0:
        raise Unfit(f"padding {pad.padding}: the kernel pads every side alike")
    if isinstance(pad, nn.ConstantPad2d):
        if pad.value != 0:
            raise Unfit(f"padding with {pad.value}: the kernel reflects, replicates or pads with zeros")
        return amounts.pop(), "zeros"
    return amounts.pop(), PADDING_MODES[type(pad)]


def activation_options(layer: nn.Module | None) -> dict[str, Any]:
    """The kernels' arguments for an activation."""
    if layer is None:
        return {"activation": None}
    if not isinstance(layer, nn.LeakyReLU):
        return {"activation": ACTIVATIONS[type(layer)]}
    if not layer.negative_slope >= 0:
        raise Unfit(f"negative slope {layer.negative_slope}: the kernel's is >= 0")
    return {"activation": "leaky_relu", "negative_slope": layer.negative_slope}


def check_norm(norm: nn.Module | None) -> None:
    """A batch norm with a fixed momentum, or an instance norm of the image alone."""
    if isinstance(norm, nn.InstanceNorm2d) and norm.track_running_stats:
        raise Unfit("instance norm with running statistics: the kernel's has none")
    if isinstance(norm, nn.BatchNorm2d) and norm.momentum is None:
        raise Unfit("batch norm of momentum None: the kernel has no cumulative average")


def norm_arguments(norm: nn.Module | None) -> dict[str, Any]:
    """The kernels' arguments for a norm, read as its own forward reads them; counts the batch as that does."""
    if norm is None:
        return {"norm": None}
    if isinstance(norm, nn.InstanceNorm2d):
        return {"norm": "instance", "norm_weight": norm.weight, "norm_bias": norm.bias, "eps": norm.eps}
    assert isinstance(norm, nn.BatchNorm2d)
    if norm.training and norm.track_running_stats and norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
    kept = norm.track_running_stats or not norm.training
    return {
        "norm": "batch",
        "norm_weight": norm.weight,
        "norm_bias": norm.bias,
        "running_mean": norm.running_mean if kept else None,
        "running_var": norm.running_var if kept else None,
        "training": norm.training or norm.running_mean is None,
        "momentum": norm.momentum,
        "eps": norm.eps,
    }


def weights(conv: nn.Conv2d) -> tuple[Tensor, Tensor | None]:
    """Weight and bias as the convolution's own call would see them: the weight's hooks run, once."""
    for hook in list(conv._forward_pre_hooks.values()):
        hook(conv, ())
    return conv.weight, conv.bias


def layer_of(node: fx.Node, root: nn.Module) -> nn.Module | None:
    """The layer a node of a graph computes, also where it was written as a function; None: no layer we know.

    Only of nodes with one tensor, the first argument.
    """
    if node.op == "call_module":
        one = len(node.args) == 1 and not node.kwargs and isinstance(node.args[0], fx.Node)
        return root.get_submodule(str(node.target)) if one else None
    build = _FUNCTIONS.get(node.target) if node.op in ("call_function", "call_method") else None
    if build is None or not node.args or not isinstance(node.args[0], fx.Node):
        return None
    others = (node.args[1:], node.kwargs)
    if any(isinstance(a, fx.Node) for a in torch.utils._pytree.tree_leaves(others)):
        return None
    try:
        return build(*node.args[1:], **node.kwargs)
    except (TypeError, Unfit):
        return None


def _interpolate(
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> nn.Module:
    if antialias:
        raise Unfit("antialias")
    return nn.Upsample(size, scale_factor, mode, align_corners, recompute_scale_factor)


def _pad(pad: Any, mode: str = "constant", value: float | None = None) -> nn.Module:
    if len(pad) != 4:
        raise Unfit("a pad of another rank")
    if mode == "constant":
        return nn.ConstantPad2d(pad, value or 0)
    return next(of for of, name in PADDING_MODES.items() if name == mode)(pad)


_FUNCTIONS: dict[Any, Callable[..., nn.Module]] = {
    F.interpolate: _interpolate,
    F.pad: _pad,
    F.leaky_relu: nn.LeakyReLU,
    F.relu: nn.ReLU,
    torch.relu: nn.ReLU,
    "relu": nn.ReLU,
    torch.tanh: nn.Tanh,
    F.tanh: nn.Tanh,
    "tanh": nn.Tanh,
}


def changes_in_place(node: fx.Node, root: nn.Module) -> bool:
    """Whether a node may write into a tensor it was given."""
    layer = layer_of(node, root)
    if layer is not None:
        return bool(getattr(layer, "inplace", False))
    if node.op == "call_method":
        return str(node.target).endswith("_") and not str(node.target).endswith("__")
    if node.op != "call_function" or node.target in (operator.and_, operator.or_, operator.not_):
        return False
    name = getattr(node.target, "__name__", "")
    written = node.kwargs.get("inplace") or node.kwargs.get("out") is not None
    return bool(written) or name.endswith("_") or name == "setitem"


def may_write(node: fx.Node, root: nn.Module) -> bool:
    """As `changes_in_place`, and the modules that nobody looks into."""
    if node.op != "call_module":
        return changes_in_place(node, root)
    inside = root.get_submodule(str(node.target)).modules()
    return any(getattr(m, "inplace", False) or not type(m).__module__.startswith("torch.") for m in inside)
