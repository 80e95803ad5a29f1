"""Steps as CUDA graphs: what a step launches is recorded once, and from then on started by one call.

A graph repeats kernels with the addresses and numbers they were recorded with. So steps that run different operations
have a graph each; what differs between steps of one graph lies in tensors that stay where they are: inputs are copied
there, learning rates and the seed of the device's random numbers are set there before a step.

Nothing here has run on a GPU yet. The tests record and replay by other means, on the CPU (`tests/recording.py`).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from pyeqgan.errors import UserError
from pyeqgan.training.inputs import mapped, tensors
from pyeqgan.training.processes import Processes

Losses = dict[str, Tensor]
Play = Callable[[], Losses]

WARM_UP = 3


class Recorder(Protocol):
    """How launches are recorded."""

    def warm_up(self, play: Play) -> Losses:
        """Play a step as it will be recorded, but for the recording."""

    def record(self, play: Play) -> tuple[Callable[[], None], Losses]:
        """What plays the recorded step again, and where its losses will lie; recording alone computes nothing."""


class CudaRecorder:
    """torch's CUDA graphs, which share one pool of memory: they run one at a time and hand each other nothing in it.

    Args:
        device: a GPU.
        rng: source of the random numbers that are drawn there.
    """

    def __init__(self, device: torch.device, rng: torch.Generator) -> None:
        self._rng = rng
        self._pool = torch.cuda.graph_pool_handle()
        # The one stream of all: backward passes run on the stream that the forward pass was on.
        self._stream = torch.cuda.Stream(device)

    def warm_up(self, play: Play) -> Losses:
        """See `Recorder`."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "This instance was constructed with capturable=True", UserWarning)
            losses = play()
        torch.cuda.current_stream().wait_stream(self._stream)
        return losses

    def record(self, play: Play) -> tuple[Callable[[], None], Losses]:
        """See `Recorder`."""
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self._rng)
        with torch.cuda.graph(graph, self._pool, self._stream):
            losses = play()
        return graph.replay, losses


class StepGraphs:
    """Plays steps by their graphs. The first `WARM_UP` of each kind are played without, for what is made but once:
    optimisers' states, libraries' workspaces, compiled kernels.

    Args:
        play: one step of a kind on inputs; launches the same for all steps of the kind, and reads no value.
        recorder: of its launches.
    """

    def __init__(self, play: Callable[[int, Any], Losses], recorder: Recorder) -> None:
        self._play = play
        self._recorder = recorder
        self._inputs: Any = None
        self._played: dict[int, int] = {}
        self._graphs: dict[int, tuple[Callable[[], None], Losses]] = {}

    def __call__(self, kind: int, inputs: Any) -> Losses:
        """Play a step; its losses are the caller's to keep.

        Args:
            kind: of the step.
            inputs: tensors, of the same structure and shapes at every step.
        """
        self._take(inputs)
        if self._played.setdefault(kind, 0) < WARM_UP:
            self._played[kind] += 1
            losses = self._recorder.warm_up(lambda: self._play(kind, self._inputs))
        else:
            if kind not in self._graphs:
                self._graphs[kind] = self._recorder.record(lambda: self._play(kind, self._inputs))
            replay, losses = self._graphs[kind]
            replay()
        return {name: loss.clone() for name, loss in losses.items()}

    def forget(self) -> None:
        """Record anew: tensors of the state lie elsewhere now."""
        self._graphs.clear()

    def _take(self, inputs: Any) -> None:
        if self._inputs is None:
            self._inputs = mapped(Tensor.clone, inputs)
            return
        for own, given in zip(tensors(self._inputs), tensors(inputs), strict=True):
            if own.shape != given.shape:
                raise ValueError(f"a step's inputs: expected shape {tuple(own.shape)}, got {tuple(given.shape)}")
            own.copy_(given)


def check_recordable(processes: Processes) -> None:
    """UserError unless steps can be recorded here."""
    device = processes.fabric.device.type
    if device != "cuda":
        raise UserError(f"--cuda-graph: expected a CUDA device, got {device}")
    if processes.count > 1:
        raise UserError(f"--cuda-graph: expected one process, got {processes.count}")
