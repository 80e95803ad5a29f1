"""What a training run asks of a model, and all that it knows of one: its data, its networks, and who learns how.

Data, a batch, networks and losses are the system's; processes, optimisers,
averages, checkpoints, progress and pictures on disk are the run's.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.optim import Optimizer

from pyeqgan.data import Unreadable
from pyeqgan.errors import UserError
from pyeqgan.options import TrainOptions
from pyeqgan.training.checkpoint import Checkpoint

Backward = Callable[[Tensor], Any]
Autocast = Callable[[], AbstractContextManager[Any]]


@dataclass(frozen=True)
class Turn:
    """What a player is told beside networks and batch.

    Attributes:
        step: number of a training step like this one, from 0, see `System.like`: nothing here that is no tensor differs
            between two of them.
        drawn: what `System.drawn` drew for this step, on the device.
        rng: randomness of this step on the device; players draw from it one after another.
        processes: how many processes take this step, each with as many rows of one batch.
        group: in which they meet; None for one process.
        backward: called on each scalar loss; Fabric's in the engine.
        autocast: makes the context of each forward pass, and of nothing else; Fabric's in the engine.
    """

    step: int
    drawn: Any
    rng: torch.Generator
    processes: int
    group: ProcessGroup | None
    backward: Backward
    autocast: Autocast


@dataclass(frozen=True)
class Player:
    """Who learns together, in one turn of a step.

    Attributes:
        networks: names of those whose optimisers step after the turn.
        play: with all networks by name, the batch and the turn: adds gradients to these networks' parameters, and
            returns the unweighted losses, detached scalars.
    """

    networks: tuple[str, ...]
    play: Callable[[Mapping[str, nn.Module], Any, Turn], dict[str, Tensor]]


class System(Protocol):
    """A model in training.

    Attributes:
        options: of the run, with nothing left to chance: two runs are the same if these are.
        about: what checkpoints keep to describe the run, JSON; "model" is the configuration of the networks.
        players: in the order of their turns; their losses are named "player/loss".
        sharded: the networks whose weights `--strategy fsdp` cuts into parts.
        unreadable: the images whose places others take.
    """

    @property
    def options(self) -> TrainOptions: ...  # noqa: D102

    @property
    def about(self) -> Mapping[str, Any]: ...  # noqa: D102

    @property
    def players(self) -> Mapping[str, Player]: ...  # noqa: D102

    @property
    def sharded(self) -> tuple[str, ...]: ...  # noqa: D102

    @property
    def unreadable(self) -> Unreadable: ...  # noqa: D102

    def build(self) -> dict[str, nn.Module]:
        """New networks, by name; "generator" is the one that is averaged and drawn."""

    def optimizer(self, name: str, network: nn.Module) -> Optimizer:
        """A new optimiser of one of the networks, with the learning rate of the first step."""

    def batches(self, start: int, stop: int, rows: slice) -> Generator[Any, None, None]:
        """The batches of steps start, start + 1, …, stop - 1, dataclasses of tensors of these rows of each.

        That of a step depends on the seed and the step alone.
        """

    def like(self, step: int) -> int:
        """A step that runs the same operations as this one, on other tensors: one and the same for all that do."""

    def drawn(self, networks: Mapping[str, nn.Module], rng: torch.Generator, rows: slice) -> Any:
        """What a step draws on the host, for these rows of its batch: tensors, in a structure that `mapped` knows."""

    def draw(self, generator: nn.Module) -> Image.Image | None:
        """A picture of what the averaged generator makes, always of the same; None if there is nothing to draw.

        Raises:
            UserError: what it makes is not finite.
        """

    def check_continuation(self, checkpoint: Checkpoint) -> None:
        """UserError unless the data are those of the checkpoint's run."""


@contextmanager
def opening_data(options: TrainOptions) -> Iterator[None]:
    """Within: a UserError about the data of a run to resume tells how to name another place, too."""
    try:
        yield
    except UserError as error:
        if not options.resume:
            raise
        raise UserError(f"{error}; where the data of a run have moved, --data tells their new place") from error


@contextmanager
def frozen(*modules: nn.Module) -> Iterator[None]:
    """Within: eval mode, and no parameter of the modules requires gradients. After: as before."""
    training = [(module, module.training) for module in modules]
    wanted = [p for module in modules for p in module.parameters() if p.requires_grad]
    for module in modules:
        module.eval().requires_grad_(False)
    try:
        yield
    finally:
        for module, before in training:
            module.train(before)
        for parameter in wanted:
            parameter.requires_grad_(True)
