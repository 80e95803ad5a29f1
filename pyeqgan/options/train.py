"""What `pyeqgan train` can be told, whatever it trains. A run keeps its options as `config.yaml`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_type_hints

from tyro.conf import FlagCreatePairsOff

from pyeqgan.errors import UserError
from pyeqgan.options.fields import Device, at_least, flag, typed

Model = Literal["eqgan", "ecgan"]
Precision = Literal["32", "bf16-mixed"]
MemoryFormat = Literal["contiguous", "channels_last"]
Strategy = Literal["auto", "ddp", "fsdp"]

_Options = TypeVar("_Options", bound="TrainOptions")

# What may change when a run is resumed; with any other option changed it would no longer be the same run.
CHANGEABLE = (
    "data",
    "weights",
    "steps",
    "checkpoint_every",
    "sample_every",
    "log_every",
    "tensorboard",
    "strict_data",
    "prefetch",
    "workers",
    "device",
    "devices",
    "nodes",
    "strategy",
)
# How the command was called: no part of a run's configuration.
CALL = ("output", "cuda_graph", "resume", "force", "profile")


@dataclass(frozen=True)
class TrainOptions:
    """What runs of all models share; `EqGANOptions` and its like add a model's own.

    Raises:
        UserError: an option is out of range.
    """

    output: Path
    """Folder of the run. An existing one needs --resume or --force."""
    model: Model = "eqgan"
    """What to train. --model ecgan --help tells the options of that one."""
    data: str = "embedded"
    """The images."""
    steps: int = 100_000
    """Training steps in all, those before a resume included."""
    batch_size: int = 8
    """Rows of a step's batch, of all processes together."""
    seed: int = 0
    """Seed of everything random: initial weights, batches, what networks draw. Embedded data are always the same."""
    ema_decay: float = 0.999
    """How much of the generator's running average a step keeps; samples and checkpoints use that average."""
    checkpoint_every: int = 1000
    """Steps between checkpoints, which is what a killed run loses at most. The last two are kept."""
    sample_every: int = 1000
    """Steps between pictures: a grid of samples and the loss curves."""
    log_every: int = 50
    """Steps between lines of progress and of metrics.jsonl."""
    tensorboard: FlagCreatePairsOff[bool] = False
    """Write losses and pictures for TensorBoard, too, into --output/tensorboard."""
    strict_data: FlagCreatePairsOff[bool] = False
    """End at the first image that cannot be read. Else another of its class takes its place, and the run names it."""
    prefetch: int = 3
    """Batches prepared ahead in the background."""
    workers: int = 2
    """Threads that prepare them. metrics.jsonl tells the share of the time that was spent waiting: data_wait."""
    device: Device = "auto"
    """Where to compute; auto is cuda if there is one."""
    devices: int = 1
    """Processes on this machine, each with a GPU or a share of the CPU's cores and an equal share of every batch."""
    nodes: int = 1
    """Machines, each with as many processes. torchrun, where it starts them, sets both numbers."""
    strategy: Strategy = "auto"
    """With several processes: each keeps all weights (ddp, auto), or a part of those of the large networks (fsdp)."""
    precision: Precision = "32"
    """Arithmetic of the networks."""
    memory_format: MemoryFormat = "contiguous"
    """Layout of weights and maps. channels_last is meant for GPUs in bf16; CPUs are 5 to 10 % slower with it."""
    compile: FlagCreatePairsOff[bool] = False
    """torch.compile the generator, which takes minutes; the penalty, a double backward, is beyond it."""
    deterministic: FlagCreatePairsOff[bool] = False
    """Use deterministic algorithms alone; one without such an algorithm ends the run with an error."""
    cuda_graph: FlagCreatePairsOff[bool] = False
    """Record a step's GPU work once and replay it: the same bits, less work for the host. Not yet run on a GPU."""
    resume: FlagCreatePairsOff[bool] = False
    """Continue the run in --output from its last good checkpoint; options not given are the run's."""
    force: FlagCreatePairsOff[bool] = False
    """Start anew where a run exists: removes the files that run made, and no others."""
    profile: FlagCreatePairsOff[bool] = False
    """Time a few steps instead of training: a table and a trace in --output/profile. --resume times that run's."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "checkpoint_every", "sample_every", "log_every"):
            at_least(name, getattr(self, name), 1)
        for name in ("prefetch", "workers", "devices", "nodes"):
            at_least(name, getattr(self, name), 1)
        if self.batch_size % (self.devices * self.nodes):
            processes = f"{self.devices * self.nodes} processes (--devices × --nodes)"
            raise UserError(f"--batch-size {self.batch_size}, expected a multiple of the {processes}")
        if not 0 <= self.seed < 2**32:
            raise UserError(f"--seed {self.seed}, expected 0 to {2**32 - 1}")
        if not 0 <= self.ema_decay < 1:
            raise UserError(f"--ema-decay {self.ema_decay}, expected a number in [0, 1)")
        if self.resume and self.force:
            raise UserError("--resume continues a run and --force replaces it: expected one of them, got both")
        if self.profile and self.force:
            raise UserError("--profile keeps what is there and --force replaces it: expected one of them, got both")
        for name, why in (("profile", "tells a step's parts apart"), ("compile", "has not been tried with it")):
            if self.cuda_graph and getattr(self, name):
                raise UserError(
                    f"--cuda-graph makes a step one launch, and --{name} {why}: expected one of them, got both"
                )
        own = type(self).__dataclass_fields__["model"].default
        if self.model != own:
            raise UserError(f"--model {self.model}: these are the options of {own}")

    def check_numbers(self, positive: Sequence[str] = (), not_negative: Sequence[str] = ()) -> None:
        """UserError unless the fields of these names are finite, and above 0 or at least 0."""
        for name in positive:
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise UserError(f"{flag(name)} {value}, expected a finite number above 0")
        for name in not_negative:
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise UserError(f"{flag(name)} {value}, expected a finite number of at least 0")

    def to_dict(self) -> dict[str, str | int | float | bool | None]:
        """The configuration of the run: every field but how the command was called."""
        fields = dataclasses.asdict(self)
        return {name: value for name, value in fields.items() if name not in CALL}

    @classmethod
    def from_dict(cls: type[_Options], values: Mapping[str, Any], output: Path) -> _Options:
        """The inverse of `to_dict`, for a run in `output`; UserError if a value is unknown or has a wrong type."""
        hints = {name: hint for name, hint in get_type_hints(cls).items() if name not in CALL}
        unknown = sorted(map(str, values.keys() - hints.keys()))
        if unknown:
            raise UserError(f"unknown options: {', '.join(unknown)}")
        return cls(output, **{name: typed(name, value, hints[name]) for name, value in values.items()})

    def changes(self, saved: TrainOptions) -> list[str]:
        """What keeps this from continuing the run of `saved`, in words; empty if nothing does."""
        now, then = self.to_dict(), saved.to_dict()
        names = [name for name in then if name not in CHANGEABLE and now[name] != then[name]]
        return [f"{flag(name)} was {then[name]}, now {now[name]}" for name in names]
