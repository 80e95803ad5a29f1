"""How a run tells where it is: a bar on a terminal, plain lines elsewhere; and the losses until then."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn
from rich.progress import Progress as Bar
from torch import Tensor
from torch.profiler import record_function

from pyeqgan.errors import UserError

if TYPE_CHECKING:
    from pyeqgan.training.processes import Processes


class LossWindow:
    """The losses of the steps since the last line, kept on their device: reading one would wait for it.

    Args:
        processes: that share a batch; the losses are its.
    """

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self._steps: list[tuple[int, Mapping[str, Tensor]]] = []

    def add(self, step: int, losses: Mapping[str, Tensor]) -> None:
        """Remember the losses of a step, each a scalar."""
        self._steps.append((step, losses))

    def take(self) -> dict[str, float]:
        """The mean of each loss over the steps that computed it; the window is then empty.

        Raises:
            UserError: a loss was NaN or infinite; names the first.
        """
        entries = [(step, name, value) for step, losses in self._steps for name, value in losses.items()]
        self._steps = []
        if not entries:
            return {}
        values = self._processes.mean(torch.stack([value.float() for *_, value in entries]))

        def means() -> dict[str, float]:
            by_name = defaultdict(list)
            for (step, name, _), value in zip(entries, values.tolist(), strict=True):
                if not math.isfinite(value):
                    raise UserError(f"training stopped: {name} is {value} at step {step}")
                by_name[name].append(value)
            return {name: sum(column) / len(column) for name, column in by_name.items()}

        return self._processes.first(means)


class Waiting:
    """Iterates over batches and tells which share of the time goes by in waiting for them.

    The device may still be at work meanwhile: its idle share is at most that.
    """

    def __init__(self, batches: Iterable[Any]) -> None:
        self._batches = batches
        self._waited, self._since = 0.0, time.monotonic()

    def __iter__(self) -> Iterator[Any]:
        batches = iter(self._batches)
        while True:
            with record_function("data"):
                asked = time.monotonic()
                batch = next(batches, None)
                self._waited += time.monotonic() - asked
            if batch is None:
                return
            yield batch

    def share(self) -> float:
        """Of the time since the last call, or the beginning."""
        now = time.monotonic()
        share = self._waited / max(now - self._since, 1e-9)
        self._waited, self._since = 0.0, now
        return share


class Progress:
    """Lines with losses, rate and the time that remains, and a bar below them on a terminal; use as a context.

    Args:
        console: where it goes.
        start: steps done before.
        total: steps in all.
    """

    def __init__(self, console: Console, start: int, total: int) -> None:
        self._console = console
        self._start, self._step, self._total = start, start, total
        self._began = time.monotonic()
        columns = (TextColumn("step"), MofNCompleteColumn(), BarColumn(), TextColumn("{task.description}"))
        self._bar = Bar(*columns, console=console, disable=not console.is_terminal)
        self._task = self._bar.add_task("", total=total, completed=start)

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def advance(self) -> None:
        """One step more is done."""
        self._step += 1
        self._bar.update(self._task, completed=self._step, description=self._timing())

    def rate(self) -> float:
        """Steps per second since the start, pictures and checkpoints included."""
        return (self._step - self._start) / max(time.monotonic() - self._began, 1e-9)

    def show(self, losses: Mapping[str, float]) -> None:
        """Tell the losses of the last steps."""
        self.report(f"step {self._step}/{self._total}  {self._timing()}  {_in_words(losses)}")

    def report(self, line: str) -> None:
        """Tell something on a line of its own."""
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _timing(self) -> str:
        rate = self.rate()
        remaining = timedelta(seconds=round((self._total - self._step) / max(rate, 1e-9)))
        return f"{rate:.2f} steps/s  {remaining} left"


@contextmanager
def stages(console: Console) -> Iterator[Callable[[str, int, int], None]]:
    """A function to call with what is being done, how much of it is done and how much there is.

    On a terminal it draws a bar for each thing that is being done; elsewhere it writes one line for each.
    """
    tasks: dict[str, TaskID] = {}
    with Bar(console=console, disable=not console.is_terminal) as bar:

        def progress(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
                if not console.is_terminal:
                    console.print(what, markup=False, highlight=False, soft_wrap=True)
            bar.update(tasks[what], completed=done)

        yield progress


def _in_words(losses: Mapping[str, float]) -> str:
    """Losses on one line, those of each player of the step, with bars between."""
    players: dict[str, list[str]] = {}
    for name, value in losses.items():
        player, _, term = name.partition("/")
        players.setdefault(player, []).append(f"{term} {value:.3g}")
    return " | ".join("  ".join(terms) for terms in players.values())
