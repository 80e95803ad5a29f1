"""How an operation enters torch: schema, oracle, fake and derivatives, defined once, in Python.

``define`` gives an operation its schema, its fake and its oracle. The oracle fills the slot of every device
until a kernel is registered for it (the compiled module does that for the CPU when it is imported, see
:mod:`pyeqgan.backends`). ``differentiate`` attaches a fused backward operation; ``differentiate_composed``
derives an operation, typically a backward, by differentiating its oracle.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor

NAMESPACE = "pyeqgan"
LIBRARY = torch.library.Library(NAMESPACE, "DEF")
ORACLES: dict[str, Callable[..., Any]] = {}

# Kernels accept any strides but the strides of their results follow from them, as the fakes say.
_TAGS = (
    torch.Tag.pt2_compliant_tag,
    getattr(torch.Tag, "needs_exact_strides", torch.Tag.needs_fixed_stride_order),
)


def define(schema: str, *, oracle: Callable[..., Any], fake: Callable[..., Any]) -> None:
    """Define the operation of ``schema`` with the oracle in every device's slot."""
    name = schema.partition("(")[0]
    LIBRARY.define(schema, tags=_TAGS)
    ORACLES[name] = oracle
    LIBRARY.impl(name, as_kernel(oracle), "CompositeExplicitAutograd")
    torch.library.register_fake(f"{NAMESPACE}::{name}", fake, lib=LIBRARY)


def differentiate(
    name: str, backward: Callable[..., Any], setup_context: Callable[[Any, tuple[Any, ...], Any], None]
) -> None:
    """Attach the first-order derivative of an operation."""
    torch.library.register_autograd(f"{NAMESPACE}::{name}", backward, setup_context=setup_context, lib=LIBRARY)


def differentiate_composed(name: str) -> None:
    """Derive an operation by differentiating its oracle, which must itself be differentiable.

    The oracle is run again in the backward pass; the result can be differentiated further.
    """
    oracle = ORACLES[name]

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        flat, ctx.structure = pytree.tree_flatten(inputs, is_leaf=_is_leaf)
        ctx.is_tensor = [isinstance(i, Tensor) for i in flat]
        ctx.others = [None if t else i for i, t in zip(flat, ctx.is_tensor, strict=True)]
        ctx.save_for_backward(*(i for i in flat if isinstance(i, Tensor)))

    def backward(ctx: Any, *grads: Any) -> tuple[Any, ...]:
        saved = iter(ctx.saved_tensors)
        flat = [next(saved) if t else o for t, o in zip(ctx.is_tensor, ctx.others, strict=True)]
        found = vjp(
            lambda *arguments: oracle(*pytree.tree_unflatten(arguments, ctx.structure)),
            flat,
            pytree.tree_leaves(grads),
            pytree.tree_leaves(ctx.needs_input_grad),
        )
        return pytree.tree_unflatten(found, ctx.structure)  # type: ignore[no-any-return]

    differentiate(name, backward, setup_context)


def _is_leaf(argument: Any) -> bool:
    """Only lists of tensors are opened, as torch does when it asks for their gradients."""
    if isinstance(argument, tuple):
        return False
    return not (isinstance(argument, list) and argument and all(isinstance(i, Tensor) for i in argument))


def vjp(
    function: Callable[..., Any],
    arguments: Sequence[Any],
    grads: Sequence[Tensor | None],
    needs: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """Vector-Jacobian product of a differentiable function, for the arguments that need it.

    Differentiable again where the caller records gradients. Every argument is cut from its own history first,
    so that a path from one argument to another (a gradient computed from the input it belongs to) is not
    counted twice.
    """
    create_graph = torch.is_grad_enabled()
    needs = [n and a is not None for a, n in zip(arguments, needs, strict=True)]
    with torch.enable_grad():
        cut = [_cut(a, n and create_graph) if n else a for a, n in zip(arguments, needs, strict=True)]
        outputs = function(*cut)
        outputs = (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)
        pairs = [(o, g) for o, g in zip(outputs, grads, strict=False) if g is not None and o.requires_grad]
        wanted = [c for c, n in zip(cut, needs, strict=True) if n]
        if not pairs or not wanted:
            return tuple(torch.zeros_like(a) if n else None for a, n in zip(arguments, needs, strict=True))
        found = iter(
            torch.autograd.grad(
                [o for o, _ in pairs],
                wanted,
                [g for _, g in pairs],
                create_graph=create_graph,
                allow_unused=True,
                materialize_grads=True,
            )
        )
        return tuple(next(found) if n else None for n in needs)


def vjp_of_sum(
    parts: Iterable[Callable[..., Any]],
    arguments: Sequence[Any],
    grads: Sequence[Tensor | None],
    needs: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """The :func:`vjp` of a sum of functions, one at a time: what one of them records is gone before the next."""
    total = [torch.zeros_like(a) if n else None for a, n in zip(arguments, needs, strict=True)]
    for part in parts:
        found = vjp(part, arguments, grads, needs)
        total = [t if f is None or t is None else t + f for t, f in zip(total, found, strict=True)]
    return tuple(total)


def _cut(argument: Tensor, keep_graph: bool) -> Tensor:
    if keep_graph and argument.requires_grad:
        return argument.view_as(argument)
    return argument.detach().requires_grad_()


def as_kernel(oracle: Callable[..., Any]) -> Callable[..., Any]:
    """The oracle as a device kernel: no graph leaves it, though a backward's oracle records one inside."""

    @functools.wraps(oracle)
    def kernel(*arguments: Any) -> Any:
        with torch.no_grad(), _autograd_below():
            return oracle(*arguments)

    return kernel


@contextmanager
def _autograd_below() -> Iterator[None]:
    """Let autograd record inside a kernel, where the dispatcher has switched it off."""
    keys = torch._C.DispatchKey
    excluded = torch._C._dispatch_tls_local_exclude_set()
    for key in (
        keys.AutogradFunctionality,
        keys.AutogradOther,
        keys.AutogradNestedTensor,
        keys.ADInplaceOrView,
    ):
        excluded = excluded.remove(key)
    with torch._C._ForceDispatchKeyGuard(torch._C._dispatch_tls_local_include_set(), excluded):
        yield


def composed_backward(
    function: Callable[..., Any],
    arguments: Sequence[Any],
    grads: Sequence[Tensor | None],
    needs: Sequence[bool],
) -> tuple[Tensor, ...]:
    """The oracle of a backward operation: one tensor per entry of ``needs``, empty (0,) where not asked for.

    ``needs`` covers the leading arguments; those after it are never differentiated.
    """
    found = vjp(function, arguments, grads, (*needs, *[False] * (len(arguments) - len(needs))))
    empty = next(g for g in grads if g is not None)
    return tuple(empty.new_empty(0) if f is None else f for f in found[: len(needs)])


def optional(grad: Tensor, needed: bool) -> Tensor | None:
    """The gradient an autograd formula returns for an input: None where it was not asked for."""
    return grad if needed else None


def memory_format_of(x: Tensor) -> torch.memory_format:
    """The memory format image outputs take over from ``x``: decided by its strides, also when it is sliced."""
    return torch._prims_common.suggest_memory_format(x)


def empty_image(x: Tensor, channels: int, height: int | None = None, width: int | None = None) -> Tensor:
    """An uninitialised (B,channels,height,width) in the dtype and memory format of ``x``, sizes of x by default."""
    shape = (
        x.shape[0],
        channels,
        x.shape[2] if height is None else height,
        x.shape[3] if width is None else width,
    )
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=memory_format_of(x))


# Asked once: torch.compile of 2.11 breaks where it is asked in a traced function.
_AUTOCAST = frozenset(d for d in ("cpu", "cuda", "xpu", "mps", "hpu") if torch.amp.is_autocast_available(d))


def autocast_enabled(device: str) -> bool:
    """Whether this type of device has an autocast, and it is on."""
    return device in _AUTOCAST and torch.is_autocast_enabled(device)


def autocast(x: Tensor, *others: Tensor | None) -> tuple[Any, ...]:
    """Under autocast, the image operations' policy: these tensors (float64 excepted) in the autocast dtype."""
    values = (x, *others)
    device = x.device.type
    if not autocast_enabled(device):
        return values
    dtype = torch.get_autocast_dtype(device)
    return tuple(v if v is None or v.dtype == torch.float64 else v.to(dtype) for v in values)
