"""What the processes of a step send each other: counted, measured on the loopback interface, and by the cost model.

python -m pyeqgan.benchmarks.traffic [--processes 2 4] [--image-size 64] [--width 0.25] prints the table of
docs/scale.md in MB (10⁶ bytes). "payload" is what is handed to the collectives; "sent" is what one rank puts on the
wire for it when they are rings; "loopback" is the interface's count over the number of ranks, with TCP's headers and
with whatever else the machine sends itself.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.utils._pytree as pytree
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from pyeqgan.data import Episode, Split, SyntheticFlowers
from pyeqgan.data.layouts import LayoutBatch
from pyeqgan.functional import contrastive_loss
from pyeqgan.models import ECGANProjection
from pyeqgan.options import ECGANOptions, EqGANOptions
from pyeqgan.training.ecgan.losses import CROSS_SCALE
from pyeqgan.training.ecgan.system import ECGANSystem
from pyeqgan.training.engine import Engine
from pyeqgan.training.eqgan.system import EqGANSystem
from pyeqgan.training.processes import Processes

Found = tuple[Counter[str], Counter[str], float]

SHOTS, CLASSES = 3, 6
KEYS, FEATURES = 4096, 64  # of each rank
GIB = str(1 << 30)


class Payload(TorchDispatchMode):
    """Counts the bytes that collectives are given, by kind: the larger of what goes in and what comes out."""

    KINDS = ("allreduce", "allgather", "reduce_scatter", "broadcast", "send")

    def __init__(self) -> None:
        super().__init__()
        self.bytes: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if function.namespace in ("c10d", "_c10d_functional"):
            name = function.name().partition("::")[2].replace("_", "")  # "all_gather_into_tensor" is an allgather
            for kind in self.KINDS:
                if name.startswith(kind.replace("_", "")):
                    groups = [[t for t in pytree.tree_leaves(a) if isinstance(t, Tensor)] for a in (*args, result)]
                    self.bytes[kind] += max(sum(t.nbytes for t in group) for group in groups)
        return result


def sent(payload: Counter[str], count: int) -> float:
    """What a rank sends for them in rings."""
    share = (count - 1) / count
    factors = {"allreduce": 2 * share, "allgather": share, "reduce_scatter": share, "broadcast": 1, "send": 1}
    return sum(factors[kind] * number for kind, number in payload.items())


def weights(network: nn.Module) -> int:
    """Bytes of its parameters."""
    return 4 * sum(p.numel() for p in network.parameters())


def channels(network: nn.Module) -> int:
    """Of all its batch norms."""
    return sum(m.num_features for m in network.modules() if isinstance(m, nn.SyncBatchNorm))


def eqgan_model(engine: Engine, strategy: str) -> Counter[str]:
    """The payload of one step of EqGAN as docs/scale.md derives it."""
    generator, discriminator = map(weights, engine.networks.values())
    # Forward in both networks' steps, backward in the generator's.
    statistics = 3 * 16 * channels(engine.networks["generator"])
    if strategy == "ddp":
        return Counter(allreduce=generator + discriminator + statistics)
    return Counter(allreduce=generator + statistics, allgather=2 * discriminator, reduce_scatter=2 * discriminator)


def ecgan_model(engine: Engine, strategy: str, pixels: list[int]) -> Counter[str]:
    """The payload of one step of ECGAN whose rank contrasts so many pixels of each scale."""
    ranks, networks = dist.get_world_size(), engine.networks
    statistics = 2 * 16 * sum(map(channels, networks.values()))  # each network once forward, once backward
    projection = networks["projection"]
    assert isinstance(projection, ECGANProjection)
    dimensions = projection.heads[0][-1].out_channels  # type: ignore[index]
    # Labels and ids of the keys within a scale, labels across; their numbers before, the sums after.
    met = [(n, 16) for n in pixels] + [(pixels[to], 8) for _, to in CROSS_SCALE]
    keys = sum(4 * n * dimensions for n, _ in met)
    gathered = ranks * (keys + sum(n * rest for n, rest in met) + 8 * (len(met) + 1))
    reduced = ranks * keys + 12 * len(met) + 2 * 8  # and the pixels and images that two other losses divide by
    small = weights(projection) + weights(networks["segmenter"]) + statistics + reduced
    large = weights(networks["generator"]) + weights(networks["discriminator"])
    if strategy == "ddp":
        return Counter(allreduce=large + small, allgather=gathered)
    # The generator for its step and for its average, the discriminator for both steps.
    return Counter(allreduce=small, allgather=2 * large + gathered, reduce_scatter=large)


def contrast_model(way: str, count: int) -> Counter[str]:
    """The payload of the contrastive loss, forward and backward, of float32 keys."""
    keys, labels = 4 * KEYS * FEATURES, 2 * 8 * KEYS  # a label and an id
    if way == "gather":
        return Counter(allgather=count * (keys + labels + 8), allreduce=count * keys + 12)
    rounds = (2 + 1) * (count - 1) * (keys + labels)  # forward twice ("per_positive"), backward once
    return Counter(send=rounds + count * keys, allgather=count * 8, allreduce=12)


def loopback() -> int:
    """Bytes that the machine has sent itself."""
    (line,) = (x for x in Path("/proc/net/dev").read_text().splitlines() if x.strip().startswith("lo:"))
    return int(line.split(":")[1].split()[8])


def count(action: Callable[[], object]) -> tuple[Counter[str], float]:
    """The payload of this rank and the loopback's bytes a rank while all do `action`."""
    dist.barrier()
    before = loopback()
    with Payload() as payload:
        action()
    dist.barrier()
    return payload.bytes, (loopback() - before) / dist.get_world_size()


def eqgan_step(strategy: Any, processes: int, folder: str, image_size: int, width: float) -> Found:
    """EqGAN's second step, of one episode a rank: the payload by the model, the payload and the bytes counted."""
    run = EqGANOptions(
        Path(folder), batch_size=processes, shots=SHOTS, strategy=strategy, image_size=image_size, width=width
    )
    flowers = SyntheticFlowers(8, SHOTS, image_size, seed=0)
    engine = Engine(EqGANSystem(run, Split(seen=flowers, unseen=flowers)), join())
    images = torch.rand(1, SHOTS, 3, image_size, image_size)
    episode = Episode(images, torch.zeros(1, dtype=torch.int64))
    engine.advance(episode)
    return eqgan_model(engine, strategy), *count(lambda: engine.advance(episode))


def ecgan_step(strategy: Any, processes: int, folder: str, image_size: int, width: float) -> Found:
    """Likewise ECGAN's, of one layout a rank; every pixel contrasts."""
    run = ECGANOptions(
        Path(folder),
        batch_size=processes,
        strategy=strategy,
        image_height=image_size,
        image_width=image_size,
        width=width,
        contrast_pixels=image_size**2,
    )
    engine = Engine(ECGANSystem(run), join())
    labels = torch.arange(image_size).mul(CLASSES).div(image_size, rounding_mode="floor").expand(1, image_size, -1)
    batch = LayoutBatch(
        torch.rand(1, 3, image_size, image_size), labels.contiguous(), torch.ones(1, 1, image_size, image_size)
    )
    engine.advance(batch)
    pixels = [(image_size // scale) ** 2 for scale in (8, 4, 2)]
    return ecgan_model(engine, strategy, pixels), *count(lambda: engine.advance(batch))


def join() -> Processes:
    """Those of the process group that is there."""
    return Processes(Fabric(accelerator="cpu", devices=1))


def work(rank: int, processes: int, folder: str, options: dict[str, Any]) -> None:
    """Measure on one rank; the first prints."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=processes)
    rows = []
    for name, measure in (("EqGAN", eqgan_step), ("ECGAN", ecgan_step)):
        for strategy in ("ddp", "fsdp"):
            rows.append((f"{name}'s step, {strategy}", *measure(strategy, processes, folder, **options)))
    features, labels = torch.randn(KEYS, FEATURES, requires_grad=True), torch.randint(19, (KEYS,))
    for way, limit in (("gather", GIB), ("ring", "0")):
        os.environ["PYEQGAN_GATHER_LIMIT"] = limit
        counted, wire = count(lambda: contrastive_loss(features, labels, group=dist.group.WORLD).backward())
        rows.append((f"contrastive loss, {way}", contrast_model(way, processes), counted, wire))
    if rank == 0:
        for name, model, counted, wire in rows:
            numbers = (sum(model.values()), sum(counted.values()), sent(model, processes), wire)
            print(f"| {processes} | {name} |" + "".join(f" {n / 1e6:.3f} |" for n in numbers), flush=True)
    dist.destroy_process_group()


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--processes", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--width", type=float, default=0.25)
    arguments = parser.parse_args()
    print(
        "| processes | what | payload, model | payload, counted | sent, model | loopback |\n|---|---|---|---|---|---|"
    )
    for processes in arguments.processes:
        with tempfile.TemporaryDirectory() as folder:
            options = {"image_size": arguments.image_size, "width": arguments.width}
            mp.spawn(work, (processes, folder, options), nprocs=processes)


if __name__ == "__main__":
    main()
