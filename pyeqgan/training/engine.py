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
from typing import Any, cast

import numpy as np
import torch
from lightning_fabric import Fabric, seed_everything
from torch import Tensor
from torch.distributed import is_torchelastic_launched
from torch.distributed.fsdp import FSDPModule
from torch.optim import Adam
from torch.profiler import record_function

from pyeqgan.errors import UserError
from pyeqgan.models import EqGAN, EqGANConfig, EqGANGenerator
from pyeqgan.models.eqgan.fusion import FusionPlan
from pyeqgan.options import Device, Precision, TrainOptions
from pyeqgan.training.batch_norm import synchronize_batch_norm
from pyeqgan.training.checkpoint import Checkpoint
from pyeqgan.training.device import resolve_device
from pyeqgan.training.ema import ExponentialMovingAverage
from pyeqgan.training.losses import LossWeights
from pyeqgan.training.processes import Processes
from pyeqgan.training.sharding import part_like, shard, whole
from pyeqgan.training.step import discriminator_step, generator_step

BETAS = (0.5, 0.999)  # LoFGAN's
RENDEZVOUS = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK")  # of several machines, where torchrun does not set it
MEMORY_FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


class Engine:
    """Both networks, their optimisers and the generator's average, after `step` steps.

    Args:
        options: of the run.
        config: of the networks.
        processes: that take the steps together; device and precision.
    """

    def __init__(self, options: TrainOptions, config: EqGANConfig, processes: Processes) -> None:
        seed_everything(options.seed, verbose=False)
        model = EqGAN(config)
        model.to(memory_format=MEMORY_FORMATS[options.memory_format])  # type: ignore[call-overload]
        processes.fabric.to_device(model)
        self.step = 0
        self.generator = model.generator
        self.discriminator = model.discriminator
        self.average = ExponentialMovingAverage(model.generator, options.ema_decay)
        if options.compile:  # the generator alone: torch cannot compile the double backward of the penalty
            self.generator.compile()
        self._options = options
        self._weights = loss_weights(options)
        self._processes = processes
        self._fabric = processes.fabric
        if processes.count > 1:
            synchronize_batch_norm(self.generator)
            if options.strategy == "fsdp":
                shard(self.discriminator)
        self._optimizers = {
            name: Adam(
                network.parameters(), options.learning_rate, BETAS, weight_decay=options.weight_decay, fused=True
            )
            for name, network in (("generator", self.generator), ("discriminator", self.discriminator))
        }

    def advance(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Take one step of each network.

        Args:
            images: (B,K,3,S,S) in [-1, 1], this process's rows of the batch, on any device.
            labels: (B,) int64.

        Returns:
            The unweighted losses before the step, scalars on the device, named "discriminator/…" and "generator/…";
            their mean over the processes is that of the batch.
        """
        images, labels = self._fabric.to_device((images, labels))
        rng = step_rng(self._options.seed, self.step)
        rate = learning_rate(self._options.learning_rate, self.step, self._options.steps)
        shared: dict[str, Any] = {
            "weights": self._weights,
            "backward": self._fabric.backward,
            "autocast": self._fabric.autocast,
        }
        networks = (self.generator, self.discriminator)
        plan, generator_plan, other_plan = (self._draw_plan(images, rng) for _ in range(3))
        self._optimizers["discriminator"].zero_grad()
        losses = discriminator_step(
            *networks, images, labels, step=self.step, processes=self._processes.count, plan=plan, **shared
        )
        self._update("discriminator", rate)
        terms = {f"discriminator/{name}": loss for name, loss in losses.items()}

        self._optimizers["generator"].zero_grad()
        losses = generator_step(*networks, images, labels, plan=generator_plan, other_plan=other_plan, **shared)
        self._update("generator", rate)
        terms |= {f"generator/{name}": loss for name, loss in losses.items()}

        with record_function("average"):
            self.average.update(self.generator)
        self.step += 1
        return terms

    def generate(self, images: Tensor, count: int, seed: int) -> Tensor:
        """Generate with the generator's average; see `EqGANGenerator.generate`.

        Raises:
            UserError: an image is not finite.
        """
        generator = cast(EqGANGenerator, self.average.module)
        generated = generator.generate(images, count, seed=seed)
        if not generated.isfinite().all():
            raise UserError(f"training stopped: generated images are not finite after step {self.step}")
        return generated

    def parts(self) -> dict[str, dict[str, Tensor]]:
        """Every tensor that a resumed run needs, by the part of a checkpoint it belongs to.

        Raises:
            UserError: a weight is NaN or infinite.
        """
        parts = {
            "generator": self.generator.state_dict(),
            "discriminator": {name: whole(tensor) for name, tensor in self.discriminator.state_dict().items()},
            "ema": self.average.module.state_dict(),
            "training": {"ema.updates": self.average.updates, **self._optimizer_state()},
        }
        self._processes.first(lambda: self._check_finite(parts))
        return parts

    def load(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint of the same options."""
        parts = checkpoint.parts
        self.generator.load_state_dict(parts["generator"])
        own = self.discriminator.state_dict()
        self.discriminator.load_state_dict({n: part_like(t, own[n]) for n, t in parts["discriminator"].items()})
        self.average.module.load_state_dict(parts["ema"])
        self.average.updates.copy_(parts["training"]["ema.updates"])
        self._load_optimizer_state(parts["training"])
        self.step = checkpoint.step

    def _check_finite(self, parts: Mapping[str, Mapping[str, Tensor]]) -> None:
        for part, tensors in parts.items():
            for name, tensor in tensors.items():
                if not tensor.isfinite().all():
                    raise UserError(f"training stopped: {part}'s {name} is not finite after step {self.step}")

    def _draw_plan(self, images: Tensor, rng: torch.Generator) -> FusionPlan:
        """The rows of these images in the plan of the whole batch."""
        batch = len(images) * self._processes.count
        rows = self._processes.rows(batch)
        return self.generator.sample_plan(batch, images.shape[1], generator=rng, device=images.device, rows=rows)

    def _update(self, name: str, rate: float) -> None:
        optimizer = self._optimizers[name]
        if isinstance(self.discriminator, FSDPModule):
            self.discriminator.reshard()
        network = getattr(self, name)
        if not isinstance(network, FSDPModule):  # which has averaged its gradients
            self._processes.average_gradients(network.parameters())
        for group in optimizer.param_groups:
            group["lr"] = rate
        with record_function("optimiser"):
            optimizer.step()

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


def model_config(options: TrainOptions, num_classes: int) -> EqGANConfig:
    """The networks that the options describe, for `num_classes` seen classes; UserError if they cannot be built."""
    try:
        return EqGANConfig(
            num_classes=num_classes,
            image_size=options.image_size,
            shots=options.shots,
            width=options.width,
            fusion=options.fusion,
            fusion_rate=options.fusion_rate,
            equalization=options.equalization,
            detail=options.detail,
        )
    except ValueError as error:
        raise UserError(str(error)) from error


def loss_weights(options: TrainOptions) -> LossWeights:
    """The losses that the options describe."""
    return LossWeights(
        classification=options.classification_weight,
        penalty=options.penalty,
        penalty_weight=options.penalty_weight,
        penalty_every=options.penalty_every,
        reconstruction=options.reconstruction_weight,
        consistency=options.consistency_weight,
        mode_seeking=options.mode_seeking_weight,
    )


def learning_rate(base: float, step: int, steps: int) -> float:
    """LoFGAN's schedule: `base` for the first half of `steps`, then linear to 0; `step` counts from 0."""
    return base * min(1.0, 2 * (steps - step) / steps)


def step_rng(seed: int, step: int) -> torch.Generator:
    """The randomness of one step's networks, on the CPU: the same on every device.

    The episode of the step is drawn from its own sequence, `(seed, (step,))`, see `EpisodeSampler`.
    """
    (state,) = np.random.SeedSequence(seed, spawn_key=(step, 1)).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state) % 2**63)
