"""Whether a module's ``forward`` may be read as a graph: whether a graph can hold everything it does.

Symbolic tracing runs the code once, with stand-ins for the tensors, and sees only what happens to these. What else the
code reads or changes would be frozen or lost without a word, so it is looked for in the code itself: a forward is read
only where there is nothing of the kind. What it may read, besides its inputs, is torch, its submodules, parameters
and buffers, and plain constants of the module, which the swap goes on watching (:func:`constants`).
"""

from __future__ import annotations

import builtins
import dis
import math
from collections.abc import Iterator, Sequence
from types import CodeType, FunctionType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

AUTHORS_FORWARD = "_authors_forward"  # where a swapped container's class keeps the forward it replaces

TORCHS_OWN = "it is one of torch's own layers"
_BUILTINS = frozenset(
    {"abs", "dict", "enumerate", "float", "int", "len", "list", "max", "min", "range", "reversed", "sum", "super"}
    | {"tuple", "zip", "True", "False", "None"}
)
# What torch would answer while the graph is being read, not when it runs; and what no graph records.
_STATE = frozenset(
    {"is_grad_enabled", "is_inference_mode_enabled", "is_autocast_enabled", "get_default_dtype", "is_scripting"}
    | {"is_tracing", "is_compiling", "is_available", "device_count", "checkpoint", "training", "is_deterministic"}
    | {"initial_seed", "get_rng_state", "set_rng_state", "manual_seed", "seed", "Generator", "requires_grad_"}
)
_CONSTANTS = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.memory_format)


def authors_class(module: nn.Module) -> type[nn.Module]:
    """The class its author gave a module, also after a swap."""
    kind = type(module)
    return kind.__mro__[1] if AUTHORS_FORWARD in vars(kind) else kind


def refusal(module: nn.Module) -> str | None:
    """Why a module's forward must not be read as a graph, or None where it may."""
    kind = type(module)
    if "forward" in vars(module):
        return "its forward was replaced on the instance"
    if kind.__call__ is not nn.Module.__call__ or kind.__getattr__ is not nn.Module.__getattr__:
        return "it overrides __call__ or __getattr__"
    if _forward(module) is nn.Sequential.forward:
        return None
    if kind.__module__.partition(".")[0] == "torch":
        return TORCHS_OWN
    return next((reason for function in _functions(module) for reason in _refusals(function, module)), None)


def constants(module: nn.Module) -> dict[str, Any]:
    """The plain attributes that the module's forward may read: the graph holds while they stay as they are."""
    if _forward(module) is nn.Sequential.forward:
        return {}
    names = {name for function in _functions(module) for code in _codes(function.__code__) for name in code.co_names}
    return {name: value for name in names if _is_constant(value := _attribute(module, name))}


def _forward(module: nn.Module) -> Any:
    return getattr(type(module), AUTHORS_FORWARD, type(module).forward)


_ABSENT = object()


def _attribute(module: nn.Module, name: str) -> Any:
    return vars(module).get(name, getattr(type(module), name, _ABSENT))


def _is_constant(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(_is_constant(v) for v in value)
    return type(value) in _CONSTANTS


def _functions(module: nn.Module) -> Iterator[FunctionType]:
    """The module's forward and the methods that may be called from there, those of base classes too."""
    waiting, seen = [_forward(module)], set()
    while waiting:
        function = waiting.pop()
        if not isinstance(function, FunctionType) or _is_torchs(function) or function in seen:
            continue
        seen.add(function)
        yield function
        names = {name for code in _codes(function.__code__) for name in code.co_names}
        waiting += [vars(kind)[name] for kind in authors_class(module).__mro__ for name in names & vars(kind).keys()]


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _refusals(function: FunctionType, module: nn.Module) -> Iterator[str]:
    where = f"its {function.__name__}"
    outside = set(function.__code__.co_freevars) - {"__class__"}
    if outside:
        yield f"{where} reads {', '.join(sorted(outside))} from around it (a decorator or an inner class)"
    if function.__code__.co_flags & 0x0C:
        yield f"{where} takes *args or **kwargs"
    for code in _codes(function.__code__):
        steps = list(dis.get_instructions(code))
        for i, step in enumerate(steps):
            yield from _refused_step(step, where, function)
            if "NONE" in step.opname or step.opname == "IS_OP":
                yield from _refused_test(steps, i, where, function)
        for name in code.co_names:
            if name in _STATE:
                yield f"{where} asks for {name}"
            value = _attribute(module, name)
            if not (value is _ABSENT or _is_constant(value) or isinstance(value, FunctionType | nn.Module | Tensor)):
                if _is_torchs(value):
                    continue
                yield f"{where} reads {name}, a {type(value).__name__}, which may change"


def _refused_step(step: dis.Instruction, where: str, function: FunctionType) -> Iterator[str]:
    name = step.opname
    if name in ("STORE_ATTR", "DELETE_ATTR"):
        yield f"{where} assigns {step.argval}"
    elif name in ("STORE_GLOBAL", "IMPORT_NAME"):
        yield f"{where} touches the global {step.argval}"
    elif "WITH" in name or name == "LOAD_SPECIAL":
        yield f"{where} has a with statement"
    elif name in ("PUSH_EXC_INFO", "SETUP_FINALLY", "YIELD_VALUE", "RETURN_GENERATOR"):
        yield f"{where} catches exceptions or is a generator"
    elif name.startswith("INPLACE_") or (name == "BINARY_OP" and step.argrepr.endswith("=")):
        yield f"{where} changes a value in place ({step.argrepr or name})"
    elif name in ("LOAD_GLOBAL", "LOAD_NAME"):
        if step.argval in function.__globals__:
            value = function.__globals__[step.argval]
            if not _is_torchs(value):
                yield f"{where} uses {step.argval}, which is not torch's"
        elif step.argval not in _BUILTINS or not hasattr(builtins, step.argval):
            yield f"{where} uses {step.argval}"


def _refused_test(steps: Sequence[dis.Instruction], i: int, where: str, function: FunctionType) -> Iterator[str]:
    """A stand-in is never None: only of an input, untouched (the swap minds those), or of self's own parts is it so."""
    operand = i - 1
    if steps[i].opname == "IS_OP":
        if not (steps[i - 1].opname == "LOAD_CONST" and steps[i - 1].argval is None):
            yield f"{where} compares with 'is'"
            return
        operand = i - 2
    loaded, owner = steps[operand], steps[operand - 1]
    inputs = function.__code__.co_varnames[: function.__code__.co_argcount]
    stored = {s.argval for s in steps if s.opname.startswith("STORE_FAST")}
    if loaded.opname.startswith("LOAD_FAST") and loaded.argval in inputs and loaded.argval not in stored:
        return
    if loaded.opname == "LOAD_ATTR" and owner.opname.startswith("LOAD_FAST") and owner.argval == inputs[0]:
        return
    yield f"{where} tests something for None that is neither an input nor its own"


def _is_torchs(value: Any) -> bool:
    if value is math:
        return True
    home = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None) or ""
    return home.partition(".")[0] == "torch" and (isinstance(value, ModuleType) or callable(value))
