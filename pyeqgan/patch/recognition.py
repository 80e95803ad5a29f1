"""Functions that are recognised by what they compute: hand-written code, traced, against our operation.

Where the layers do not tell, the values do. A candidate is a pure graph: of its inputs and the module's buffers,
without parameters, modules or random numbers. It is an operation where outputs and gradients agree in float64 on
inputs of several sizes and scales and on every edge case of the operation; the constants (a temperature, a sigma) are
read off the graph or measured. One case that differs, and it is left: also where ours would be the better answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.autograd import forward_ad
from torch.utils import _pytree as pytree

from pyeqgan import backends
from pyeqgan.patch.layers import may_write

Function = Callable[..., Any]

_RANDOM = ("rand", "dropout", "bernoulli", "multinomial", "normal_", "uniform_", "exponential_")


@dataclass(frozen=True)
class Probe:
    """Arguments of an operation, and what is special about them (None: nothing)."""

    arguments: tuple[Tensor, ...]
    special: str | None = None


@dataclass(frozen=True)
class Candidate:
    """An operation with all its constants, as a function of the graph's inputs."""

    operation: str
    constants: str
    kernel: Function
    probes: Sequence[Probe]

    def __str__(self) -> str:
        return f"{self.operation}({self.constants})"


class Unlike(Exception):  # noqa: N818  (it is an answer, not a failure)
    """A graph computes something else."""


class Recognised:
    """The call of an operation in the place of a graph that computes it."""

    __module__ = __name__

    def __init__(self, candidate: Candidate, authors: Function, buffers: Sequence[Tensor]) -> None:
        self.operation = self.__name__ = candidate.operation
        self._kernel = candidate.kernel
        self._authors = authors
        self._ranks = [a.dim() for a in candidate.probes[0].arguments]
        self._kept = [b.detach().float().clone() for b in buffers]

    def __call__(self, *arguments: Any) -> Any:
        """What the graph computes; the buffers come last."""
        inputs, buffers = arguments[: len(self._ranks)], arguments[len(self._ranks) :]
        if self._takes(inputs) and self._same(buffers):
            try:
                return self._kernel(*inputs)
            except (TypeError, ValueError):  # before anything was computed: the author's code may take it, or refuse
                pass
        return self._authors(None, *arguments)

    def _takes(self, inputs: Sequence[Any]) -> bool:
        if torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
            return False
        if not all(map(_plain, inputs)) or [i.dim() for i in inputs] != self._ranks:
            return False
        device = inputs[0].device.type
        # Which of the author's lines autocast would cast is nothing the operation knows.
        return not torch.is_autocast_enabled(device) and backends.has_kernel(self.operation, device)

    def _same(self, buffers: Sequence[Tensor]) -> bool:
        """Whether the buffers still hold what was recognised."""
        return all(torch.equal(b.float(), kept) for b, kept in zip(buffers, self._kept, strict=True))


def _plain(x: Any) -> bool:
    return type(x) in (Tensor, nn.Parameter) and x.dtype in (torch.float32, torch.float64, torch.int64)


@dataclass(frozen=True)
class Piece:
    """A part of a graph as a function of tensors: ``function(None, *inputs, *buffers)``."""

    inputs: list[fx.Node]
    buffers: list[fx.Node]
    output: Any
    nodes: list[fx.Node]
    function: Function
    tensors: list[Tensor]
    """The buffers as they are."""
    values: list[Tensor]
    """The buffers in float64, for the probes."""

    def __call__(self, *inputs: Tensor) -> Any:
        """The value for inputs in float64."""
        return self.function(None, *inputs, *self.values)

    @property
    def tolerance(self) -> float:
        """Relative; a buffer brings its own roundings, torch's softplus is off by 2e-9."""
        return 1e-6 if any(t.dtype != torch.float64 for t in self.tensors) else 1e-8


def cut(graph: fx.Graph, inputs: Sequence[fx.Node], output: Any, root: nn.Module) -> Piece | None:
    """The part of a graph between its inputs and its output, or None where it, or what runs meanwhile, is not pure."""
    if not inputs:
        return None
    everything = list(graph.nodes)
    end = everything.index(output) if isinstance(output, fx.Node) else len(everything)
    if any(may_write(node, root) for node in everything[everything.index(inputs[0]) + 1 : end]):
        return None
    nodes: set[fx.Node] = set()
    waiting = [n for n in pytree.tree_leaves(output) if isinstance(n, fx.Node)]
    while waiting:
        node = waiting.pop()
        if node in nodes or node in inputs:
            continue
        if not _pure(node, root):
            return None
        nodes.add(node)
        waiting += node.all_input_nodes
    ordered = [n for n in graph.nodes if n in nodes]
    buffers = [n for n in ordered if n.op == "get_attr"]
    piece, copies = fx.Graph(), {}
    for node in (*inputs, *buffers):
        copies[node] = piece.placeholder(node.name)
    for node in ordered:
        if node.op != "get_attr":
            copies[node] = piece.node_copy(node, copies.__getitem__)
    piece.output(fx.node.map_arg(output, copies.__getitem__))
    tensors = [root.get_buffer(str(n.target)) for n in buffers]
    values = [t.detach().double() if t.is_floating_point() else t for t in tensors]
    return Piece(list(inputs), buffers, output, ordered, compile_graph(piece), tensors, values)


def _pure(node: fx.Node, root: nn.Module) -> bool:
    if node.op == "get_attr":
        owner, _, name = str(node.target).rpartition(".")
        return name in root.get_submodule(owner)._buffers
    if node.op not in ("call_function", "call_method"):
        return False
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return not any(word in name for word in _RANDOM)


def compile_graph(graph: fx.Graph) -> Function:
    """The graph as a Python function of the module and its inputs."""
    code = graph.python_code("self")
    namespace = dict(code.globals)
    exec(code.src, namespace)
    function: Function = namespace["forward"]
    return function


def constants(piece: Piece) -> list[Any]:
    """The numbers that are written in the graph."""
    leaves = pytree.tree_leaves([(n.args, n.kwargs) for n in piece.nodes])
    return list(dict.fromkeys(v for v in leaves if isinstance(v, (int, float)) and not isinstance(v, bool)))


@dataclass(frozen=True)
class Part:
    """A piece of a graph that an operation computes, and the node it ends in (None: it is all of the graph)."""

    node: fx.Node | None
    piece: Piece
    call: Recognised
    text: str

    @property
    def operation(self) -> str:
        """The name of the operation."""
        return self.call.operation

    def replace(self, graph: fx.Graph) -> None:
        """Put the call of the operation in the place of the piece."""
        end = next(n for n in graph.nodes if n.op == "output")
        with graph.inserting_before(self.node or end):
            call = graph.call_function(self.call, (*self.piece.inputs, *self.piece.buffers))
        if self.node is None:
            end.args = (call,)
        else:
            self.node.replace_all_uses_with(call)
        for node in reversed(self.piece.nodes):
            if not node.users:
                graph.erase_node(node)


def first(node: fx.Node | None, piece: Piece, candidates: Iterable[Candidate]) -> Part | tuple[Candidate, str] | None:
    """The first candidate that agrees; else one that differs in edge cases only, and in which; else None."""
    near = None
    for candidate in candidates:
        try:
            where = difference(candidate, piece)
        except Unlike:
            continue
        if where is None:
            return Part(node, piece, Recognised(candidate, piece.function, piece.tensors), str(candidate))
        near = near or (candidate, where)
    return near


def difference(candidate: Candidate, piece: Piece) -> str | None:
    """Where a piece of a graph and an operation differ, or None where they agree on all probes.

    Raises:
        Unlike: they do not agree on inputs that have nothing special.
    """
    special = None
    for probe in candidate.probes:
        if not _agree(candidate.kernel, piece, probe.arguments, piece.tolerance):
            if probe.special is None:
                raise Unlike
            special = special or probe.special
    return special


def _agree(kernel: Function, authors: Function, arguments: Sequence[Tensor], tolerance: float) -> bool:
    results = [_observe(f, arguments) for f in (authors, kernel)]
    if results[0] is None or results[1] is None or len(results[0]) != len(results[1]):
        return False
    return all(_close(a, b, tolerance) for a, b in zip(*results, strict=True))


def _observe(function: Function, arguments: Sequence[Tensor]) -> list[Tensor] | None:
    """Outputs and gradients, or None where the function does not take these arguments."""
    arguments = [a.clone().requires_grad_(a.is_floating_point()) for a in arguments]
    leaves = [a for a in arguments if a.requires_grad]
    try:
        outputs = [t for t in pytree.tree_leaves(function(*arguments)) if isinstance(t, Tensor)]
        ends = [t for t in outputs if t.requires_grad]
        generator = torch.Generator().manual_seed(0)
        weights = [torch.randn(t.shape, generator=generator, dtype=t.dtype) for t in ends]
        grads = torch.autograd.grad(ends, leaves, weights, allow_unused=True, materialize_grads=True) if ends else ()
    except Exception:  # somebody's code on inputs it was not written for
        return None
    return [t.detach() for t in (*outputs, *grads)]


def _close(a: Tensor, b: Tensor, tolerance: float) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if not a.is_floating_point():
        return torch.equal(a, b)
    if not bool(a.isfinite().all()) or not bool(b.isfinite().all()):
        return False
    return float((a - b).norm()) <= tolerance * max(float(b.norm()), 1e-6)


def placeholders(graph: fx.Graph) -> list[fx.Node]:
    """The inputs of a graph."""
    return [n for n in graph.nodes if n.op == "placeholder"]


def result(graph: fx.Graph) -> Any:
    """What a graph returns."""
    return next(n for n in graph.nodes if n.op == "output").args[0]
