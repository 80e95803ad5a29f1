"""A training run from its options to its last checkpoint."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import ExitStack, closing

from rich.console import Console

from pyeqgan.errors import UserError
from pyeqgan.options import Device, TrainOptions
from pyeqgan.telling import Report
from pyeqgan.training import memory
from pyeqgan.training.checkpoint import Checkpoint, checkpoints, load_latest
from pyeqgan.training.device import deterministic_algorithms
from pyeqgan.training.engine import Engine, launch
from pyeqgan.training.graphs import check_recordable
from pyeqgan.training.pictures import loss_curves
from pyeqgan.training.processes import Processes
from pyeqgan.training.profile import STEPS, WARM_UP, profile
from pyeqgan.training.progress import LossWindow, Progress, Waiting
from pyeqgan.training.run_folder import PROFILE, UNREADABLE, RunFolder, open_run
from pyeqgan.training.signals import StopSignals
from pyeqgan.training.system import System
from pyeqgan.training.systems import open_system
from pyeqgan.training.tensorboard import TensorBoard, summary_writer


def train(options: TrainOptions, console: Console) -> int:
    """Train as `options` say, or go on with it, in the folder they name.

    SIGTERM and SIGINT end it after the step at hand, with a checkpoint; a second one ends it at once. Of several
    processes the first alone writes and tells; all end after the same step, also when one of them fails.

    Args:
        options: of the run; with `options.resume` the run in `options.output` is continued.
        console: where progress is told.

    Returns:
        0, or 128 plus the number of the signal that ended it.

    Raises:
        UserError: an option, the data or the folder does not do, a loss is not finite, or the disk is full.
    """

    def say(line: str) -> None:
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    # Before the other processes start: what is missing or wrong with the data is then told once.
    if options.tensorboard:
        summary_writer()
    system = open_system(options)
    processes = launch(options.device, options.precision, options.devices, options.nodes)
    if processes.rank > 0:
        console = Console(quiet=True)
    rows = processes.rows(options.batch_size)
    if options.cuda_graph:
        check_recordable(processes)
    device: Device = "cpu" if processes.fabric.device.type == "cpu" else "cuda"
    options = dataclasses.replace(system.options, device=device)
    with ExitStack() as stack, processes.together(), deterministic_algorithms(options.deterministic):
        if options.profile:
            if processes.count > 1:
                raise UserError(f"--profile: expected one process, got {processes.count}")
            folder = stack.enter_context(open_run(options))
            engine = Engine(system, processes)
            if checkpoints(folder.path / "checkpoints"):
                engine.load(load_latest(folder.path, say))
            with closing(system.batches(engine.step, engine.step + WARM_UP + STEPS, rows)) as batches:
                profile(engine, batches, folder.path / PROFILE, say)
            for line in system.unreadable.new():
                say(line)
            return 0
        folder, checkpoint = processes.first(lambda: _open(options, system, stack, say))
        start = checkpoint.step if checkpoint else 0
        if start == options.steps:
            say(f"{folder.path} is finished: all its {start} steps are done")
            return 0
        if options.resume:
            say(f"resuming {folder.path} at step {start}" + ("" if checkpoint else ", as it has no checkpoint yet"))
        engine = Engine(system, processes)
        if checkpoint:
            engine.load(checkpoint)
        with (
            closing(system.batches(start, options.steps, rows)) as batches,
            Progress(console, start, options.steps) as progress,
            StopSignals() as signals,
        ):
            board = None
            if options.tensorboard and processes.rank == 0:
                board = stack.enter_context(TensorBoard(folder.path, start))
            run = _Run(options, engine, system, folder, board, progress, processes)
            interrupted = run.go(Waiting(batches), signals)
        unreadable = len(folder.unreadable())
        if unreadable:
            say(f"images that could not be read and gave their places to others: {unreadable}, see {UNREADABLE}")
        if interrupted:
            say(f"interrupted at step {engine.step}: --resume continues from there")
            return 128 + interrupted
        say(f"finished: {options.steps} steps in {folder.path}")
        return 0


class _Run:
    """Steps, and what is due between them: lines, checkpoints, pictures."""

    def __init__(
        self,
        options: TrainOptions,
        engine: Engine,
        system: System,
        folder: RunFolder,
        board: TensorBoard | None,
        progress: Progress,
        processes: Processes,
    ) -> None:
        self._options = options
        self._engine = engine
        self._system = system
        self._folder = folder
        self._board = board
        self._progress = progress
        self._processes = processes
        self._window = LossWindow(processes)
        self._saved = engine.step
        self._curves = True

    def go(self, batches: Waiting, signals: StopSignals) -> int:
        """Train until the last step, or a signal, whose number is returned; 0 at the last step."""
        engine, options = self._engine, self._options
        try:
            for batch in batches:
                losses = engine.advance(batch)
                self._window.add(engine.step, losses)
                self._progress.advance()
                finished = engine.step == options.steps
                # Read once: a later signal is heard after the next step.
                stop = 0 if finished else self._processes.agree(signals.received)
                save = finished or stop or engine.step % options.checkpoint_every == 0
                if save or engine.step % options.log_every == 0:
                    self._log(batches.share())
                if finished or engine.step % options.sample_every == 0:
                    self._processes.first(self._draw)
                if save:  # last: what a run is killed before, it does again
                    self._save()
                if stop:
                    return stop
        except UserError as error:
            kept = f"the last checkpoint is of step {self._saved}" if self._saved else "there is no checkpoint yet"
            raise UserError(f"{error}; {kept}") from error
        return 0

    def _log(self, data_wait: float) -> None:
        losses = self._window.take()
        step = self._engine.step
        timing = {
            "learning_rate": self._engine.rate(step - 1),
            "steps_per_second": round(self._progress.rate(), 4),
            "data_wait": round(data_wait, 4),
        }
        self._processes.first(lambda: self._record(step, losses | timing))
        unreadable = self._processes.gather(self._system.unreadable.new())
        self._processes.first(lambda: self._tell_unreadable(unreadable))
        memory.release()
        self._progress.show(losses)

    def _record(self, step: int, metrics: dict[str, float]) -> None:
        self._folder.log({"step": step, **metrics})
        if self._board is not None:
            self._board.log(step, metrics)

    def _tell_unreadable(self, lines: Sequence[str]) -> None:
        """Each image once in a run, also when it is resumed."""
        known = self._folder.unreadable() if lines else []
        new = [line for line in lines if line not in known]
        if new:
            self._folder.save_unreadable([*known, *new])
            for line in new:
                self._progress.report(f"{line}; another takes its place")

    def _save(self) -> None:
        about = {**self._system.about, "options": self._options.to_dict()}
        parts = self._engine.parts()
        self._processes.first(lambda: self._folder.save(self._engine.step, parts, about))
        self._saved = self._engine.step

    def _draw(self) -> None:
        try:
            picture = self._system.draw(self._engine.average.module)
        except UserError as error:
            raise UserError(f"{error} after step {self._engine.step}") from error
        if picture is not None:
            self._folder.save_sample(self._engine.step, picture)
            if self._board is not None:
                self._board.picture(self._engine.step, picture)
        if self._curves:
            try:
                self._folder.save_curves(loss_curves(self._folder.metrics()))
            except ImportError:
                self._curves = False
                self._progress.report("matplotlib is not installed: no loss curves are drawn")


def _open(options: TrainOptions, system: System, stack: ExitStack, say: Report) -> tuple[RunFolder, Checkpoint | None]:
    """The run's folder, open until `stack` is left, and the checkpoint to continue from."""
    folder = stack.enter_context(open_run(options))
    checkpoint = folder.resume(say) if options.resume else None
    if checkpoint:
        _check_continuation(options, system, checkpoint)
    if checkpoint is None or checkpoint.step < options.steps:
        folder.write_config(options)
        folder.forget_after(checkpoint.step if checkpoint else 0)
    return folder, checkpoint


def _check_continuation(options: TrainOptions, system: System, checkpoint: Checkpoint) -> None:
    system.check_continuation(checkpoint)
    if checkpoint.step > options.steps:
        raise UserError(f"--steps {options.steps}, expected at least {checkpoint.step}: as many are done")
