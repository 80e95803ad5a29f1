"""`accelerate`: let the kernels compute what they can of an existing model."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from pyeqgan.errors import UserError
from pyeqgan.patch import installing, tracing, writing
from pyeqgan.patch.chains import DecoderBlock
from pyeqgan.patch.matching import Found, Near
from pyeqgan.patch.program import Program
from pyeqgan.patch.recognition import Part
from pyeqgan.patch.report import Left, Report, Swapped
from pyeqgan.patch.verify import compare, observe

Writer = Callable[[nn.Module], Program]


def accelerate(model: nn.Module, *, verify: bool = False, inputs: Sequence[Any] = ()) -> Report:
    """Let the kernels compute what they can of an existing model, in place, with the same results.

    Recognised by their structure, whatever their classes are called:

    - nearest upsampling by two (before or after it a concatenation with a skip connection), reflect padding,
      3×3 convolution, batch or instance norm, activation: `skip_decoder_block`;
    - activation, padding, 3×3 convolution of 32 channels or more, as in activation-first residual blocks:
      `activated_conv2d`;
    - whole modules that compute a local fusion, a bilateral propagation or a contrastive loss.

    The forwards are read by symbolic tracing (:mod:`torch.fx`), each in the smallest module that holds a whole chain;
    that module then runs the same graph with the kernel in it. Parameters, buffers, submodules, names, hooks and
    optimisers stay what they are, spectral norm goes on as before, and deep copies and pickles are accelerated, too.
    A forward that does what a graph cannot hold (random numbers, attributes it assigns, ``with``, globals, …) is
    left alone. Where a call is not what was read, later, it goes the old way: when a layer has been replaced, has
    changed or got a hook, when an input is None, under forward-mode differentiation, on devices without a kernel.

    Differences that remain: float rounding; the kernels take the memory format of their input; and a block without a
    norm keeps its output for the backward pass, so that writing over it in place is an error there.

    Args:
        model: to be changed; it keeps its class, up to a subclass of the same name inside.
        verify: compare outputs, gradients and buffers before and after on ``inputs``, and undo if they differ.
        inputs: positional arguments of the model for ``verify``.

    Returns:
        What was swapped, what was left and why; its ``undo()`` reverses everything.

    Raises:
        UserError: ``verify`` without ``inputs``, or ``model`` is not a module.
        VerificationError: the accelerated model differs; it has been restored.
    """
    if not isinstance(model, nn.Module):
        raise UserError(f"accelerate: model: expected a torch.nn.Module, got {type(model).__name__}")
    if verify and not inputs:
        raise UserError("accelerate: verify: expected example inputs (inputs=(…)), got none")
    before = observe(model, inputs) if verify else {}
    search = _Search(model)
    try:
        report = search.run()
        report.error = compare(before, observe(model, inputs)) if verify else None
    except BaseException:
        search.report.undo()
        raise
    return report


class _Search:
    """One walk through a model, smallest containers first: the less of a forward is replaced, the better."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.names = {module: name for name, module in model.named_modules()}
        self.taken: set[nn.Module] = set()
        self.report = Report([], [])
        self.near: dict[tuple[nn.Module, Writer], list[Left]] = {}

    def run(self) -> Report:
        """Hand-written operations first; then decoder blocks, which reach over several modules; then the rest."""
        for write, operations in (
            (writing.recognise, None),
            (writing.find_chains, {"skip_decoder_block"}),
            (writing.find_chains, None),
        ):
            for container in reversed(self.names):
                if container not in self.taken and not installing.installed(container):
                    self._look(container, write, operations)
        self.report.left += [left for lefts in self.near.values() for left in lefts]
        place = {name: i for i, name in enumerate(self.names.values())}
        self.report.left.sort(key=lambda left: (left.operation is None, place.get(left.name, len(place))))
        self.report.swapped.sort(key=lambda swapped: place.get(swapped.name, len(place)))
        return self.report

    def _look(self, container: nn.Module, write: Writer, operations: set[str] | None) -> None:
        home = type(container).__module__
        if home.startswith(("torch.jit", "torch.fx")):
            reason = "it is compiled already: accelerate the model it was made of"
            self.near[container, writing.find_chains] = [Left(self.names[container], None, reason)]
        if home.startswith(("torch.", "pyeqgan.nn", "pyeqgan.models")) and type(container) is not nn.Sequential:
            return  # what is torch's is looked for in what calls it, and what is ours has the kernels
        name = self.names[container]
        try:
            program = write(container)
        except tracing.Untraceable as error:
            self.near[container, writing.find_chains] = [Left(name, None, str(error))]
            return
        for path in program.opened:  # what nearly matches in there is seen from here, and more of it
            self.near.pop((container.get_submodule(path), write), None)
        self.near[container, write] = [self._left(name, near) for near in program.near]
        if program.found and (operations is None or operations & {found.operation for found in program.found}):
            self._install(container, program)

    def _left(self, name: str, near: Near) -> Left:
        path = ""
        if near.node is not None:
            inside = tracing.owners(near.node)[-1:]
            path = str(near.node.target) if near.node.op == "call_module" else ".".join([*inside, near.node.name])
        return Left(_join(name, path), near.operation, near.reason)

    def _install(self, container: nn.Module, program: Program) -> None:
        for found in program.found:
            swapped = self._chain(container, found) if isinstance(found, Found) else self._part(container, found)
            self.report.swapped.append(swapped)
        for guard in program.guards:
            self.taken.add(container.get_submodule(guard.path))
        installing.install(container, program)
        self.report._undo.append(functools.partial(installing.remove, container))

    def _chain(self, container: nn.Module, found: Found) -> Swapped:
        kinds = {role: _kind(container, node) for role, node in found.nodes.items()}
        if isinstance(found.chain, DecoderBlock) and found.chain.joined is not None:
            kinds["upsample"] += " and concatenation"
        layers = tuple(kinds[role] for role in found.chain.roles if role in kinds)
        return Swapped(_join(self.names[container], str(found.nodes["conv"].target)), layers, found.operation)

    def _part(self, container: nn.Module, part: Part) -> Swapped:
        what = "its forward" if part.node is None else f"{len(part.piece.nodes)} operations of its forward"
        return Swapped(self.names[container], (what,), part.text)


def _kind(container: nn.Module, node: Any) -> str:
    if node.op != "call_module":
        return str(node.name)
    layer = container.get_submodule(str(node.target))
    return str(nn.utils.parametrize.type_before_parametrizations(layer).__name__)


def _join(*names: str) -> str:
    return ".".join(name for name in names if name)
