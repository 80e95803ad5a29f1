"""Write a container's forward anew, with kernels in it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from torch import fx, nn

from pyeqgan.patch import candidates, matching, recognition, tracing
from pyeqgan.patch.matching import Found, Near, Place
from pyeqgan.patch.program import Guard, Program
from pyeqgan.patch.recognition import Part

Match = Found | Part | Near


def write(container: nn.Module) -> Program:
    """Recognise what the container's own forward computes by hand, or else find the chains in it.

    Raises:
        Untraceable: the forward is none that a graph can hold.
    """
    recognised = recognise(container)
    return recognised if recognised.found else find_chains(container)


def find_chains(container: nn.Module) -> Program:
    """With the chains of layers in it, opening no module that takes no part.

    Raises:
        Untraceable: the forward is none that a graph can hold.
    """
    opened: set[str] = set()

    def open_all(module: nn.Module, path: str) -> bool:
        if tracing.refusal(module) is not None:
            return False
        opened.add(path)
        return True

    graph = tracing.trace(container, open_all)
    decoders = [m for m in matching.decoder_blocks(graph, container) if isinstance(m, Found)]
    places: set[Place] = set()
    matches = list(_chains(graph, container, places))
    found = decoders or [m for m in matches if isinstance(m, Found)]
    if not found:
        return _program(container, graph, matches, opened)
    nodes = [node for f in found for node in (*f.nodes.values(), *f.between)]
    opened = {path for node in nodes for path in tracing.owners(node)}
    near = [m for m in matches if isinstance(m, Near) and opened.issuperset(tracing.owners(m.node))]
    graph = tracing.trace(container, lambda module, path: path in opened)
    chains = [m for m in _chains(graph, container, set(), places) if isinstance(m, Found)]
    return _program(container, graph, [*chains, *near], opened)


def recognise(container: nn.Module) -> Program:
    """With the operations that the container's own forward computes by hand; no module inside is opened.

    Raises:
        Untraceable: the forward is none that a graph can hold.
    """
    graph = tracing.trace(container, lambda module, path: False)
    return _program(container, graph, list(_recognised(graph, container)), ())


def _chains(
    graph: fx.Graph, container: nn.Module, places: set[Place], known: set[Place] | None = None
) -> Iterator[Found | Near]:
    """The chains of a graph, each replaced before the next is looked for, and what nearly is one; adds their places."""
    for matches in (matching.decoder_blocks, matching.activated_convolutions):
        for match in matches(graph, container, known):
            if isinstance(match, Found):
                places.add(match.place(graph))
                match.replace(graph)
            yield match


def _recognised(graph: fx.Graph, container: nn.Module) -> Iterator[Match]:
    for node, piece, those in list(candidates.of(graph, container)):
        match = recognition.first(node, piece, those)
        if isinstance(match, Part):
            match.replace(graph)
            yield match
        elif match is not None:
            candidate, where = match
            yield Near(candidate.operation, node, f"it computes {candidate}, but not {where}")


def _program(container: nn.Module, graph: fx.Graph, matches: Sequence[Match], opened: Collection[str]) -> Program:
    return Program(
        run=recognition.compile_graph(graph),
        inputs=tuple(str(node.target) for node in graph.nodes if node.op == "placeholder"),
        guards=tuple(Guard.of(container, path) for path in ("", *sorted(opened))),
        found=tuple(m for m in matches if not isinstance(m, Near)),
        near=tuple(m for m in matches if isinstance(m, Near)),
        opened=frozenset(opened),
    )
