"""What `pyeqgan report` can be told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import FlagCreatePairsOff, Positional

from pyeqgan.options.fields import TOLD, Device, at_least


@dataclass(frozen=True)
class ReportOptions:
    """Show a run on one HTML page.

    Raises:
        UserError: an option is out of range.
    """

    run: Positional[Path]
    """Folder of the run."""
    output: Annotated[Path | None, TOLD] = None
    """The page. Default: report.html in the run's folder."""
    evaluation: Annotated[Path | None, TOLD] = None
    """Folder of the run's evaluation. Default: the run's own folder "evaluation", if there is one."""
    samples: int = 2
    """Images to generate for each of four unseen classes and to compare with all training images; 0 reads no data."""
    data: Annotated[str | None, TOLD] = None
    """The data of the run, where they have moved. Default: where they were."""
    seed: int = 0
    """Seed of the images generated."""
    device: Device = "auto"
    """Where to compute; auto is cuda if there is one."""
    force: FlagCreatePairsOff[bool] = False
    """Replace an earlier page."""

    def __post_init__(self) -> None:
        at_least("samples", self.samples, 0)
        at_least("seed", self.seed, 0)
