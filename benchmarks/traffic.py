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
from pyeqgan.functional import contrastive_loss
from pyeqgan.options import EqGANOptions
from pyeqgan.training.engine import Engine
from pyeqgan.training.eqgan.system import EqGANSystem
from pyeqgan.training.processes import Processes

SHOTS = 3
KEYS, FEATURES = 4096, 64  # of each rank
GIB = str(1 << 30)


class Payload(TorchDispatchMode):
    """Counts the bytes that collectives are given, by kind: the larger of what goes in and what comes out."""

    KINDS = ("allreduce", "allgather", "reduce_scatter", "broadcast", "send")

    def __init__(self) -> None:
        super().__init__()
        self.bytes: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.namespace in ("c10d", "_c10d_functional"):
            name = function.name().partition("::")[2].lstrip("_")
            for kind in self.KINDS:
                if name.startswith(kind):
                    groups = [[t for t in pytree.tree_leaves(a) if isinstance(t, Tensor)] for a in args]
                    self.bytes[kind] += max(sum(t.nbytes for t in group) for group in groups)
        return function(*args, **(kwargs or {}))


def sent(payload: Counter[str], count: int) -> float:
    """What a rank sends for them in rings."""
    share = (count - 1) / count
    factors = {"allreduce": 2 * share, "allgather": share, "reduce_scatter": share, "broadcast": 1, "send": 1}
    return sum(factors[kind] * number for kind, number in payload.items())


def step_model(engine: Engine, strategy: str) -> Counter[str]:
    """The payload of one step as docs/scale.md derives it."""
    generator, discriminator = (
        4 * sum(p.numel() for p in network.parameters()) for network in engine.networks.values()
    )
    channels = sum(m.num_features for m in engine.networks["generator"].modules() if isinstance(m, nn.SyncBatchNorm))
    statistics = 3 * 16 * channels  # forward in both networks' steps, backward in the generator's
    if strategy == "ddp":
        return Counter(allreduce=generator + discriminator + statistics)
    return Counter(allreduce=generator + statistics, allgather=2 * discriminator, reduce_scatter=2 * discriminator)


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


def work(rank: int, processes: int, folder: str, options: dict[str, Any]) -> None:
    """Measure on one rank; the first prints."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=processes)
    rows = []
    for strategy in ("ddp", "fsdp"):
        run = EqGANOptions(Path(folder), **options, batch_size=processes, shots=SHOTS, strategy=strategy)  # type: ignore[arg-type]
        flowers = SyntheticFlowers(8, SHOTS, run.image_size)
        system = EqGANSystem(run, Split(seen=flowers, unseen=flowers))
        engine = Engine(system, Processes(Fabric(accelerator="cpu", devices=1)))
        images = torch.rand(1, SHOTS, 3, run.image_size, run.image_size)
        episode = Episode(images, torch.zeros(1, dtype=torch.int64))
        engine.advance(episode)
        model = step_model(engine, strategy)
        counted, wire = count(lambda: engine.advance(episode))  # noqa: B023
        rows.append((f"step, {strategy}", model, counted, wire))
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
