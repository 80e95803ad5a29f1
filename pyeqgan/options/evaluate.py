"""What `pyeqgan evaluate` can be told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import FlagCreatePairsOff

from pyeqgan.options.fields import Device, at_least


@dataclass(frozen=True)
class EvaluateOptions:
    """Evaluate a trained generator on unseen classes, beside copying a reference and the pixel mean.

    Raises:
        UserError: an option is out of range.
    """

    checkpoint: Path
    """Folder of a run, whose last good checkpoint is taken, or of one checkpoint."""
    output: Path
    """Folder for the numbers (JSON) and pictures."""
    data: str | None = None
    """Data set, as for train. Default: the run's."""
    seen_classes: int | None = None
    """The first so many classes train the features, the rest are evaluated on. Default: as in the run's data."""
    fakes_per_class: int = 128
    """Images generated per unseen class."""
    references_per_class: int = 10
    """Images of each unseen class to generate from; the rest are the real ones to compare with."""
    shots: int | None = None
    """How many references are fused into each image. Default: as in training."""
    feature_steps: int = 200
    """Training steps of the network in whose features images are compared."""
    seed: int = 0
    """Seed of everything drawn, and of that network."""
    device: Device = "auto"
    """Where to compute; auto is cuda if there is one."""
    force: FlagCreatePairsOff[bool] = False
    """Replace an earlier evaluation in --output; other files are left alone."""

    def __post_init__(self) -> None:
        for name in ("fakes_per_class", "references_per_class", "feature_steps"):
            at_least(name, getattr(self, name), 1)
        for name in ("seen_classes", "shots"):
            if getattr(self, name) is not None:
                at_least(name, getattr(self, name), 1)
        at_least("seed", self.seed, 0)
