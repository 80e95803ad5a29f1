"""The state of a training run and its one operation: to go a step further.

Lightning Fabric chooses device and precision and launches processes. All randomness of a step comes from (seed, step)
alone: a resumed run draws what the uninterrupted one would have drawn, and there is no state of a random generator to
keep. Several processes draw the same and take a part of the rows each; gradients, batch norm's statistics and the
penalty are those of the whole batch. So their number changes nothing but rounding, and a resumed run may have another.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric, seed_everything
from torch import Tensor, nn
from torch.distributed import is_torchelastic_launched
from torch.distributed.fsdp import FSDPModule
from torch.optim import Optimizer
from torch.profiler import record_function

from pyeqgan.errors import UserError
from pyeqgan.options import Device, Precision
from pyeqgan.training.batch_norm import synchronize_batch_norm
from pyeqgan.training.checkpoint import Checkpoint
from pyeqgan.training.device import resolve_device
from pyeqgan.training.ema import ExponentialMovingAverage
from pyeqgan.training.graphs import CudaRecorder, StepGraphs
from pyeqgan.training.inputs import on_device
from pyeqgan.training.processes import Processes
from pyeqgan.training.sharding import part_like, shard, whole
from pyeqgan.training.system import System, Turn

RENDEZVOUS = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK")  # of several machines, where torchrun does not set it
MEMORY_FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


class Engine:
    """The networks of a system, their optimisers and the generator's average, after `step` steps.

    Args:
        system: what is trained.
        processes: that take the steps together; device and precision.

    Attributes:
        networks: by name.
        average: of the generator.
        step: how many are done.
    """

    def __init__(self, system: System, processes: Processes) -> None:
        options = system.options
        seed_everything(options.seed, verbose=False)
        self.networks = system.build()
        for network in self.networks.values():
            network.to(memory_format=MEMORY_FORMATS[options.memory_format])  # type: ignore[call-overload]
            processes.fabric.to_device(network)
        self.step = 0
        generator = self.networks["generator"]
        self.average = ExponentialMovingAverage(generator, options.ema_decay)
        if options.compile:  # the generator alone: torch cannot compile the double backward of a penalty
            generator.compile()
        self._system = system
        self._processes = processes
        self._fabric = processes.fabric
        if processes.count > 1:
            for network in self.networks.values():
                synchronize_batch_norm(network)
            if options.strategy == "fsdp":
                for name in system.sharded:
                    shard(self.networks[name])
        self._optimizers = {name: system.optimizer(name, network) for name, network in self.networks.items()}
        self._rates = {name: optimizer.param_groups[0]["lr"] for name, optimizer in self._optimizers.items()}
        self._rng = torch.Generator(self._fabric.device)
        self._graphs: StepGraphs | None = None
        if options.cuda_graph:
            self._graphs = StepGraphs(self._play, CudaRecorder(self._fabric.device, self._rng))
            for optimizer in self._optimizers.values():
                for group in optimizer.param_groups:
                    group.update(lr=torch.tensor(group["lr"], device=self._fabric.device), capturable=True)

    def advance(self, batch: Any) -> dict[str, Tensor]:
        """Take one step: every player's turn, and the average.

        Args:
            batch: this process's rows of it, from `System.batches`, on any device.

        Returns:
            The unweighted losses before the step, scalars on the device, named "player/loss"; their mean over the
            processes is that of the batch.
        """
        options = self._system.options
        drawn = self._system.drawn(
            self.networks, step_rng(options.seed, self.step), self._processes.rows(options.batch_size)
        )
        self._rng.manual_seed(_seed(options.seed, self.step, of=2))
        for name, optimizer in self._optimizers.items():
            _set_rate(optimizer, learning_rate(self._rates[name], self.step, options.steps))
        kind, inputs = self._system.like(self.step), on_device((batch, drawn), self._fabric.device)
        losses = self._play(kind, inputs) if self._graphs is None else self._graphs(kind, inputs)
        self.step += 1
        return losses

    def rate(self, step: int) -> float:
        """The generator's learning rate at a step, from 0."""
        return learning_rate(self._rates["generator"], step, self._system.options.steps)

    def parts(self) -> dict[str, dict[str, Tensor]]:
        """Every tensor that a resumed run needs, by the part of a checkpoint it belongs to.

        Raises:
            UserError: a weight is NaN or infinite.
        """
        parts = {
            **{
                part: {name: whole(tensor) for name, tensor in network.state_dict().items()}
                for part, network in self.networks.items()
            },
            "ema": self.average.module.state_dict(),
            "training": {"ema.updates": self.average.updates, **self._optimizer_state()},
        }
        self._processes.first(lambda: self._check_finite(parts))
        return parts

    def load(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint of the same options."""
        parts = checkpoint.parts
        for part, network in self.networks.items():
            own = network.state_dict()
            network.load_state_dict({name: part_like(tensor, own[name]) for name, tensor in parts[part].items()})
        self.average.module.load_state_dict(parts["ema"])
        self.average.updates.copy_(parts["training"]["ema.updates"])
        self._load_optimizer_state(parts["training"])
        self.step = checkpoint.step

    def _check_finite(self, parts: Mapping[str, Mapping[str, Tensor]]) -> None:
        for part, tensors in parts.items():
            for name, tensor in tensors.items():
                if not tensor.isfinite().all():
                    raise UserError(f"training stopped: {part}'s {name} is not finite after step {self.step}")

    def _play(self, kind: int, inputs: tuple[Any, Any]) -> dict[str, Tensor]:
        """A step like that of number `kind`: what it computes depends on tensors alone."""
        batch, drawn = inputs
        processes, fabric = self._processes, self._fabric
        turn = Turn(kind, drawn, self._rng, processes.count, processes.group, fabric.backward, fabric.autocast)
        losses: dict[str, Tensor] = {}
        for player, learner in self._system.players.items():
            for name in learner.networks:
                self._optimizers[name].zero_grad()
            found = learner.play(self.networks, batch, turn)
            for name in learner.networks:
                self._update(name)
            losses |= {f"{player}/{name}": loss for name, loss in found.items()}
        with record_function("average"):
            self.average.update(self.networks["generator"], whole)
        for network in self.networks.values():  # those that a player only looked at, too
            _free(network)
        return losses

    def _update(self, name: str) -> None:
        network = self.networks[name]
        _free(network)
        if not isinstance(network, FSDPModule):  # which has averaged its gradients
            self._processes.average_gradients(network.parameters())
        with record_function("optimiser"):
            self._optimizers[name].step()

    def _optimizer_state(self) -> dict[str, Tensor]:
        """Adam's moments and counts as "generator.12.exp_avg", where 12 counts the parameters.

        Sorted: gathering a shard takes all processes, in one order.
        """
        return {
            f"{name}.{index}.{key}": whole(tensor)
            for name, optimizer in self._optimizers.items()
            for index, state in sorted(optimizer.state_dict()["state"].items())
            for key, tensor in sorted(state.items())
        }

    def _load_optimizer_state(self, tensors: Mapping[str, Tensor]) -> None:
        for name, optimizer in self._optimizers.items():
            states: dict[int, dict[str, Tensor]] = {}
            parameters = optimizer.param_groups[0]["params"]
            for full_name, tensor in tensors.items():
                owner, *place = full_name.split(".")
                if owner == name:
                    index, key = int(place[0]), place[1]
                    like = parameters[index]
                    # The fused Adam goes through memory: moments must lie there as their weights do.
                    moment = torch.empty_like(like).copy_(part_like(tensor, like)) if tensor.dim() else tensor
                    states.setdefault(index, {})[key] = moment
            optimizer.load_state_dict({**optimizer.state_dict(), "state": states})
        if self._graphs is not None:
            self._graphs.forget()


def launch(device: Device, precision: Precision, devices: int = 1, nodes: int = 1) -> Processes:
    """Start the other processes, or join those that torchrun has started.

    Raises:
        UserError: there are no such devices, or the environment does not say where the other machines are.
    """
    if is_torchelastic_launched():
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
        nodes = int(os.environ["WORLD_SIZE"]) // devices
    elif nodes > 1 and not all(name in os.environ for name in RENDEZVOUS):
        missing = ", ".join(name for name in RENDEZVOUS if name not in os.environ)
        raise UserError(f"--nodes {nodes}: expected {missing} in the environment, or torchrun to set them")
    accelerator = resolve_device(device)
    if accelerator == "cuda" and devices > torch.cuda.device_count():
        raise UserError(f"--devices {devices}, expected at most {torch.cuda.device_count()}, the CUDA devices here")
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it would announce every process
    # Both strategies are "ddp" to Fabric: it launches, and wraps no network.
    strategy = "ddp" if devices * nodes > 1 else "auto"
    fabric = Fabric(accelerator=accelerator, strategy=strategy, devices=devices, num_nodes=nodes, precision=precision)
    fabric.launch()
    return Processes(fabric)


def _free(network: nn.Module) -> None:
    """Give back the weights that a sharded network has gathered; the next pass gathers them anew."""
    if isinstance(network, FSDPModule):
        network.reshard()


def learning_rate(base: float, step: int, steps: int) -> float:
    """`base` for the first half of `steps`, then linear to 0 (as LoFGAN and SPADE); `step` counts from 0."""
    return base * min(1.0, 2 * (steps - step) / steps)


def step_rng(seed: int, step: int) -> torch.Generator:
    """The randomness of one step's networks, on the CPU: the same on every device.

    The batch of the step is drawn from its own sequence, `(seed, (step,))`, see `EpisodeSampler`, and what is drawn on
    the device from a third.
    """
    return torch.Generator().manual_seed(_seed(seed, step, of=1))


def _seed(seed: int, step: int, *, of: int) -> int:
    (state,) = np.random.SeedSequence(seed, spawn_key=(step, of)).generate_state(1, np.uint64)
    return int(state) % 2**63


def _set_rate(optimizer: Optimizer, rate: float) -> None:
    """Rounded to float32, which the tensor is that a graph reads it from: with and without are the same bits."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = float(np.float32(rate))
