"""Find the chains of layers in a graph and put calls of the kernels in their places."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

import torch
from torch import fx, nn

from pyeqgan.patch import layers as of
from pyeqgan.patch import source, tracing
from pyeqgan.patch.chains import ActivatedConv, Chain, DecoderBlock, Layers
from pyeqgan.patch.layers import Unfit

Place = tuple[str, str, int]  # of a chain: its operation, its convolution, and which of that one's calls

_CONCATENATIONS = (torch.cat, torch.concat, torch.concatenate)


@dataclass
class Found:
    """A chain in a graph: its nodes by role, the last of which it replaces, and what goes in."""

    chain: Chain
    nodes: dict[str, fx.Node]
    inputs: dict[str, fx.Node]
    between: list[fx.Node] = field(default_factory=list)  # concatenations

    @property
    def operation(self) -> str:
        """The name of the operation."""
        return self.chain.operation

    @property
    def last(self) -> fx.Node:
        """The node whose value the chain computes."""
        return next(self.nodes[role] for role in reversed(self.chain.roles) if role in self.nodes)

    def place(self, graph: fx.Graph) -> Place:
        """By which the chain is known in another graph of the same container."""
        conv = self.nodes["conv"]
        calls = [n for n in graph.nodes if n.op == "call_module" and n.target == conv.target]
        return self.operation, str(conv.target), calls.index(conv)

    def replace(self, graph: fx.Graph) -> None:
        """Put the call of the chain in the place of its nodes."""
        last, shared = self.last, self.inputs.get("upsampled")
        with graph.inserting_before(last):
            given = {
                role: graph.get_attr(str(node.target)) for role, node in self.nodes.items() if node.op == "call_module"
            }
            call = graph.call_function(self.chain, (), {**self.inputs, **given})
        last.replace_all_uses_with(call)
        graph.erase_node(last)
        nodes = {n for n in (*self.nodes.values(), *self.between) if n is not last and n is not shared}
        for node in reversed([n for n in graph.nodes if n in nodes]):
            graph.erase_node(node)


@dataclass(frozen=True)
class Near:
    """What nearly is an operation: which, the node that stands for it (None: the container), and what is missing."""

    operation: str
    node: fx.Node | None
    reason: str


def decoder_blocks(graph: fx.Graph, root: nn.Module, known: Collection[Place] | None = None) -> Iterator[Found | Near]:
    """The chains that begin with an upsampling, and those that nearly do.

    ``known`` are the places of chains that another graph, with more of the modules opened, has shown to be sound: then
    it is these and no other.
    """
    for node in list(graph.nodes):
        layer = of.layer_of(node, root)
        if of.kind(layer) != "upsample":
            continue
        near: list[Near] = []
        for user in list(node.users):
            try:
                found = _decoder_block(graph, root, node, user)
                _check(found, graph, root, known)
                yield found
            except Unfit as error:
                near.append(Near(DecoderBlock.operation, node, str(error)))
        if len(near) == len(node.users):
            yield from near[:1]


def _decoder_block(graph: fx.Graph, root: nn.Module, up: fx.Node, user: fx.Node) -> Found:
    given = up.args[0]
    assert isinstance(given, fx.Node)
    nodes, inputs, between = {"upsample": up}, {"x": given}, []
    joined = None
    before = _concatenated(given)
    if before is not None and len(before) == 2 and len(given.users) == len(up.users) == 1:
        joined, between = "coarse", [given]
        inputs = dict(zip(("x", "skip"), before, strict=True))
    after = _concatenated(user)
    if after is not None:
        if after[0] is not up:
            raise Unfit("the skip connection comes first: the kernel's weight begins with the upsampled channels")
        if len(after) != 2 or joined is not None or after[1] is up:
            raise Unfit(f"{len(after)} tensors are concatenated: the kernel joins one skip connection")
        joined, inputs["skip"] = "fine", after[1]
        between.append(user)
        user = _only_user(user, root)
    if of.kind(of.layer_of(user, root)) == "pad":
        nodes["pad"] = user
        user = _only_user(user, root)
    if of.kind(of.layer_of(user, root)) != "conv":
        raise Unfit(f"its output goes into {_describe(user, root)}, not into a convolution")
    nodes["conv"] = last = user
    for role in ("norm", "activation"):
        if len(last.users) == 1 and of.kind(of.layer_of(following := next(iter(last.users)), root)) == role:
            nodes[role] = last = following
    if len(up.users) > 1:
        inputs["upsampled"] = up
    return Found(DecoderBlock(_literals(nodes, root), joined), nodes, inputs, between)


def activated_convolutions(
    graph: fx.Graph, root: nn.Module, known: Collection[Place] | None = None
) -> Iterator[Found | Near]:
    """The convolutions behind an activation, and those that nearly are a kernel's; ``known`` as above."""
    for node in list(graph.nodes):
        if of.kind(of.layer_of(node, root)) != "conv":
            continue
        nodes = {"conv": node}
        before = node.args[0]
        assert isinstance(before, fx.Node)
        if of.kind(of.layer_of(before, root)) == "pad":
            nodes["pad"] = before
            before = before.args[0]
        if of.kind(of.layer_of(before, root)) != "activation":
            continue
        nodes["activation"] = before
        try:
            found = Found(ActivatedConv(_literals(nodes, root)), nodes, {"x": before.args[0]})
            _check(found, graph, root, known)
            yield found
        except Unfit as error:
            yield Near(ActivatedConv.operation, node, str(error))


def _check(found: Found, graph: fx.Graph, root: nn.Module, known: Collection[Place] | None) -> None:
    """The layers are the kernel's; nobody else sees or changes what passes between them, or what the kernel keeps."""
    layers: Layers = {role: of.layer_of(node, root) for role, node in found.nodes.items()}  # type: ignore[misc]
    found.chain.check(layers)
    if known is not None:
        if found.place(graph) not in known:
            raise Unfit("it is none in the whole graph")
        return
    inside = [n for n in graph.nodes if n in {*found.nodes.values(), *found.between}]
    for node in inside:
        if node is not found.last and node is not found.inputs.get("upsampled"):
            _only_user(node, root)
    ordered = list(graph.nodes)
    for node in ordered[ordered.index(inside[0]) : ordered.index(found.last)]:
        if node not in inside and of.may_write(node, root):
            raise Unfit(f"{_describe(node, root)} may work in place between its layers")
    kept = list(found.inputs.values()) + ([] if "norm" in found.nodes else [found.last])
    for node in kept:
        writer = next((u for u in node.users if u not in inside and of.changes_in_place(u, root)), None)
        if writer is not None:
            raise Unfit(f"{_describe(writer, root)} works in place on what the kernel keeps for its backward")


def _literals(nodes: dict[str, fx.Node], root: nn.Module) -> Layers:
    """The layers that are no modules of the model."""
    return {r: of.layer_of(n, root) for r, n in nodes.items() if n.op != "call_module"}  # type: ignore[misc]


def _only_user(node: fx.Node, root: nn.Module) -> fx.Node:
    if len(node.users) != 1:
        raise Unfit(f"the output of {_describe(node, root)} is used elsewhere too")
    return next(iter(node.users))


def _concatenated(node: fx.Node) -> list[fx.Node] | None:
    """The tensors a node joins along the channels."""
    if node.op != "call_function" or node.target not in _CONCATENATIONS:
        return None
    tensors = node.args[0] if node.args else node.kwargs.get("tensors")
    dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", node.kwargs.get("axis", 0))
    if dim != 1 or not isinstance(tensors, list | tuple):
        return None
    return [t for t in tensors if isinstance(t, fx.Node)] if all(isinstance(t, fx.Node) for t in tensors) else None


def _describe(node: fx.Node, root: nn.Module) -> str:
    if node.op != "call_module":
        return "the result" if node.op == "output" else node.name
    module = root.get_submodule(str(node.target))
    reason = tracing.refusal(module)
    closed = f", which stays closed: {reason}" if reason not in (None, source.TORCHS_OWN) else ""
    return f"{node.target} ({type(module).__name__}{closed})"
