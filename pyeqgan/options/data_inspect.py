"""What `pyeqgan data inspect` can be told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import FlagCreatePairsOff, Positional, arg

from pyeqgan.errors import UserError
from pyeqgan.options.fields import TOLD, at_least


@dataclass(frozen=True)
class DataInspectOptions:
    """Tell what a data set holds, and what is wrong with it.

    Raises:
        UserError: an option is out of range.
    """

    path: Annotated[Positional[str], arg(metavar="PATH")]
    """Data set, as train's --data: a folder of class folders, a built folder, a .npy archive, or "embedded"; or a zip
    or tar that `data build` can make one of."""
    output: Annotated[Path | None, TOLD] = None
    """Folder for inspect.json and contact_sheet.png. Default: none, only what is printed."""
    shots: int = 3
    """Classes need as many images: those with fewer are told."""
    seen_classes: Annotated[int | None, TOLD] = None
    """The first so many classes are seen. Default: as for train."""
    near: int = 10
    """Bits, of 143, up to which two images are near duplicates; 0 takes those of equal hashes alone."""
    workers: int = 4
    """Threads that decode."""
    force: FlagCreatePairsOff[bool] = False
    """Replace the two files of an earlier inspection in --output; other files are left alone."""

    def __post_init__(self) -> None:
        at_least("shots", self.shots, 1)
        at_least("workers", self.workers, 1)
        if not 0 <= self.near <= 143:
            raise UserError(f"--near {self.near}, expected 0 to 143")
