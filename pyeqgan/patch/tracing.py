"""A container's forward as a graph (torch.fx), opened no further than asked."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn

from pyeqgan.patch import source
from pyeqgan.patch.layers import hooked
from pyeqgan.patch.source import AUTHORS_FORWARD


class Untraceable(Exception):  # noqa: N818  (it is an answer, not a failure)
    """Why a container's forward is not read as a graph."""


class _Tracer(fx.Tracer):
    proxy_buffer_attributes = True  # else a buffer that is changed in place would be changed now

    def __init__(self, root: nn.Module, opened: Callable[[nn.Module, str], bool]) -> None:
        super().__init__()
        self._opened = opened
        if hasattr(type(root), AUTHORS_FORWARD):
            self.traced_func_name = AUTHORS_FORWARD

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return not self._opened(m, module_qualified_name)


def refusal(module: nn.Module) -> str | None:
    """Why a module inside a container stays closed, or None where its forward is read along."""
    if hasattr(type(module), AUTHORS_FORWARD):
        return "it is accelerated itself"
    return "it has a hook" if hooked(module) else source.refusal(module)


def trace(container: nn.Module, opened: Callable[[nn.Module, str], bool] | None = None) -> fx.Graph:
    """The graph of the container's forward; nothing of the model is changed by reading it.

    Args:
        container: whose forward to read; its own hooks do not matter, they run around it.
        opened: of the modules inside, by path, those whose forward is read along; by default all that may be.

    Raises:
        Untraceable: the forward does what a graph cannot hold, or its course depends on its inputs.
    """
    opened = opened or (lambda module, path: refusal(module) is None)
    reason = source.refusal(container)
    if reason is not None:
        raise Untraceable(reason)
    try:
        with _untouched(container):
            graph = _Tracer(container, opened).trace(container)
    except Untraceable:
        raise
    except Exception as error:  # any code may run here, and fail in any way, on stand-ins for its tensors
        first = str(error).strip().partition("\n")[0].partition(". ")[0]
        raise Untraceable(f"its forward cannot be traced: {type(error).__name__}: {first}") from error
    if any(node.op == "placeholder" and str(node.target).startswith("*") for node in graph.nodes):
        raise Untraceable("its forward takes *args or **kwargs")
    return graph


@contextmanager
def _untouched(container: nn.Module) -> Iterator[None]:
    """Restore attributes and random states, and refuse a forward that has changed any."""
    modules = list(container.modules())
    before = [dict(vars(m)) for m in modules]
    inner = [{k: dict(v) for k, v in vars(m).items() if k in ("_parameters", "_buffers", "_modules")} for m in modules]
    versions = [(t, t._version) for t in _tensors(container) if not t.is_inference()]
    states = (random.getstate(), torch.get_rng_state())
    changed: str | None = None
    try:
        yield
    finally:
        for module, attributes, parts in zip(modules, before, inner, strict=True):
            now = vars(module)
            if now.keys() != attributes.keys() or any(now[k] is not v for k, v in attributes.items()):
                changed = "it assigns attributes"
                now.clear()
                now.update(attributes)
            for name, part in parts.items():
                if now[name].keys() != part.keys() or any(now[name][k] is not v for k, v in part.items()):
                    changed = "it assigns attributes"
                    now[name].clear()
                    now[name].update(part)
        if random.getstate() != states[0] or not torch.equal(torch.get_rng_state(), states[1]):
            changed = "it draws random numbers"
            random.setstate(states[0])
            torch.set_rng_state(states[1])
        if any(t._version != version for t, version in versions):
            changed = "it changes a tensor of its own"
    if changed is not None:
        raise Untraceable(f"its forward cannot be traced: {changed}")


def _tensors(container: nn.Module) -> list[Tensor]:
    return [*container.parameters(), *container.buffers()]


def owners(node: fx.Node | None) -> list[str]:
    """The paths of the modules that were opened to come to a node, outermost first."""
    if node is None:
        return []
    stack: dict[str, Any] = node.meta.get("nn_module_stack", {})
    paths = [path for path, _ in stack.values()]
    return paths[:-1] if node.op == "call_module" else paths
