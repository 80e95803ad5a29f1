"""`pyeqgan train`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from pyeqgan.commands.command import Command
from pyeqgan.options import TRAINABLE, EqGANOptions, TrainOptions

HELP = """Train a model: an EqGAN on classes of images, or an ECGAN on label maps.

examples:
  pyeqgan train --output runs/flowers --image-size 64 --width 0.25 --steps 2000
  pyeqgan train --output runs/photos --data photos --seen-classes 85
  pyeqgan train --output runs/photos --resume
  pyeqgan train --output runs/photos --resume --steps 200000
  pyeqgan train --output runs/photos --resume --devices 4
  torchrun --nproc-per-node 4 -m pyeqgan train --output runs/photos --resume
  pyeqgan train --output runs/photos --resume --profile
  pyeqgan train --model ecgan --output runs/scenes --data scenes
  pyeqgan train --model ecgan --help

notes:
  A run writes config.yaml, metrics.jsonl, losses.png, samples/ and checkpoints/
  into its folder. SIGTERM or Ctrl-C end it with a checkpoint, and with status
  128 plus the signal's number.
  The learning rate is constant for half of --steps, then falls linearly to 0.
  With --resume only --steps, --data (the same images elsewhere), --weights, the
  three intervals, --tensorboard, --prefetch, --workers, --device, --devices,
  --nodes and --strategy may differ from the run's. With more --steps the learning
  rate is that of the new total from there on, so it may rise again.
  On the CPU, with as many threads and processes, a resumed run ends bit for bit
  as one that was never interrupted; another number of processes changes rounding
  only. With --nodes the same command runs on every machine, with MASTER_ADDR,
  MASTER_PORT and NODE_RANK in its environment.
  --profile takes six steps of one process, tells where their time went, by part
  and by operation, and keeps nothing of them but profile/table.txt and
  profile/trace.json.gz (for chrome://tracing). The folder need not hold a run yet.
  --force removes the files that the earlier run made, and never any others."""


def run(options: TrainOptions) -> int:
    """Train; returns the exit status."""
    from rich.console import Console

    from pyeqgan.training.run import train

    return train(options, Console())


def choose(arguments: Sequence[str]) -> type[TrainOptions]:
    """The options of the model that `--model` names, of EqGAN without; an unknown name is left to the parser."""
    given = [after for word, after in pairwise(arguments) if word == "--model"]
    given += [word.partition("=")[2] for word in arguments if word.startswith("--model=")]
    return TRAINABLE.get((given or ["eqgan"])[-1], EqGANOptions)


COMMAND = Command(TrainOptions, HELP, run, choose)
