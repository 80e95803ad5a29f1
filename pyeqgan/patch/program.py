"""A container's forward with kernels in it, and the container that runs it in the place of its own."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from pyeqgan.patch import matching, source, tracing
from pyeqgan.patch.layers import hooked
from pyeqgan.patch.matching import Found, Near
from pyeqgan.patch.source import AUTHORS_FORWARD

_PROGRAM = "_pyeqgan_program"


@dataclass(frozen=True)
class Guard:
    """What was read of an opened module; if it is no longer so, the container runs its author's forward."""

    path: str
    kind: type[nn.Module] | None  # None: the container itself, whose class is another after the swap
    children: tuple[tuple[str, type], ...]
    constants: tuple[tuple[str, Any], ...]

    @classmethod
    def of(cls, container: nn.Module, path: str) -> Guard:
        """Of the module at ``path`` in the container, as it is now."""
        module = container.get_submodule(path)
        constants = tuple(source.constants(module).items())
        return cls(path, type(module) if path else None, _children(module), constants)

    def holds(self, container: nn.Module) -> bool:
        """Whether the module is still what was read."""
        try:
            module = container.get_submodule(self.path)
        except AttributeError:
            return False
        if self.path and (type(module) is not self.kind or hooked(module) or "forward" in vars(module)):
            return False
        now = [getattr(module, name, None) for name, _ in self.constants]
        return _children(module) == self.children and now == [value for _, value in self.constants]


def _children(module: nn.Module) -> tuple[tuple[str, type], ...]:
    return tuple((name, type(child)) for name, child in module._modules.items())


@dataclass(frozen=True)
class Program:
    """A forward with kernels in it.

    ``run`` takes the container and its inputs, all of them. ``found`` are the chains in it, ``near`` what nearly is
    one, ``opened`` the paths of the modules whose forward was read along.
    """

    run: Callable[..., Any]
    inputs: tuple[str, ...]
    guards: tuple[Guard, ...]
    found: tuple[Found, ...]
    near: tuple[Near, ...]
    opened: frozenset[str]

    def takes(self, container: nn.Module, arguments: tuple[Any, ...], options: dict[str, Any]) -> bool:
        """Whether the graph says what the author's forward would do now."""
        if len(arguments) + len(options) != len(self.inputs):
            return False  # a default may change the course of a forward
        if any(a is None for a in (*arguments, *options.values())):
            return False  # and so may None
        return all(guard.holds(container) for guard in self.guards)


def write(container: nn.Module) -> Program:
    """Read the container's forward and write one with kernels in it, opening no module that takes no part.

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
    found = _found(matching.decoder_blocks(graph, container)) or _found(_search(graph, container))
    if found:
        nodes = [node for f in found for node in (*f.nodes.values(), *f.between)]
        opened = {path for node in nodes for path in tracing.owners(node)}
    graph = tracing.trace(container, lambda module, path: path in opened)
    matches = list(_search(graph, container))
    return Program(
        run=_compile(graph),
        inputs=tuple(str(node.target) for node in graph.nodes if node.op == "placeholder"),
        guards=tuple(Guard.of(container, path) for path in ("", *sorted(opened))),
        found=_found(matches),
        near=tuple(match for match in matches if isinstance(match, Near)),
        opened=frozenset(opened),
    )


def _found(matches: Iterable[Found | Near]) -> tuple[Found, ...]:
    return tuple(match for match in matches if isinstance(match, Found))


def _search(graph: fx.Graph, container: nn.Module) -> Iterator[Found | Near]:
    """The chains of a graph, each replaced before the next is looked for, and what nearly is one."""
    for matches in (matching.decoder_blocks, matching.activated_convolutions):
        for match in matches(graph, container):
            if isinstance(match, Found):
                match.replace(graph)
            yield match


def _compile(graph: fx.Graph) -> Callable[..., Any]:
    code = graph.python_code("self")
    namespace = dict(code.globals)
    exec(code.src, namespace)
    run: Callable[..., Any] = namespace["forward"]
    return run


def install(container: nn.Module, program: Program) -> None:
    """Let the container run the program; its class becomes a subclass of the same name, all else stays."""
    vars(container)[_PROGRAM] = program
    container.__class__ = _accelerated(type(container))  # type: ignore[arg-type]


def remove(container: nn.Module) -> None:
    """Undo `install`."""
    vars(container).pop(_PROGRAM, None)
    container.__class__ = type(container).__mro__[1]


def installed(container: nn.Module) -> bool:
    """Whether the container runs a program, or may."""
    return hasattr(type(container), AUTHORS_FORWARD)


@functools.cache
def _accelerated(kind: type[nn.Module]) -> type[nn.Module]:
    """A subclass that runs the program of its instance wherever that holds, and the author's forward elsewhere.

    A class, not a forward on the instance: so copies, pickles and the replicas of data parallelism run on their own
    tensors. A copy or an unpickled container writes its program anew when it is first called.
    """
    authors = kind.forward

    @functools.wraps(authors)
    def forward(self: nn.Module, *arguments: Any, **options: Any) -> Any:
        program = _program(self)
        if program is None or not program.takes(self, arguments, options):
            return authors(self, *arguments, **options)
        return program.run(self, *arguments, **options)

    def reduce(self: nn.Module, protocol: Any) -> Any:
        _, (_, *others), state, *rest = super(accelerated, self).__reduce_ex__(protocol)  # type: ignore[arg-type]
        if isinstance(state, dict):
            state = {name: value for name, value in state.items() if name != _PROGRAM}
        return _new, (kind, *others), state, *rest

    accelerated = type(
        kind.__name__,
        (kind,),
        {
            "__module__": kind.__module__,
            "__qualname__": kind.__qualname__,
            "__doc__": kind.__doc__,
            "__reduce_ex__": reduce,
            "forward": forward,
            AUTHORS_FORWARD: authors,
        },
    )
    return accelerated


def _new(kind: type[nn.Module], *arguments: Any) -> nn.Module:
    accelerated = _accelerated(kind)  # type: ignore[arg-type]
    return accelerated.__new__(accelerated, *arguments)


def _program(container: nn.Module) -> Program | None:
    if _PROGRAM not in vars(container):
        try:
            program = write(container)
        except tracing.Untraceable:
            program = None
        vars(container)[_PROGRAM] = program
    found: Program | None = vars(container)[_PROGRAM]
    return found
