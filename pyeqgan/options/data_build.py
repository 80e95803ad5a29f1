"""What `pyeqgan data build` can be told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import FlagCreatePairsOff, Positional, arg

from pyeqgan.errors import UserError
from pyeqgan.options.fields import TOLD, at_least

Layout = Literal["flat", "lofgan"]


@dataclass(frozen=True)
class DataBuildOptions:
    """Make one array of images, with classes, split and checksums, from folders and archives.

    Raises:
        UserError: an option is out of range.
    """

    source: Annotated[Positional[Path], arg(metavar="SOURCE")]
    """Folder, zip or tar of class folders, at any depth; with --labels, of loose images."""
    output: Path
    """Folder to make; train and evaluate take it as --data."""
    image_size: int = 128
    """Height and width of the images, a multiple of 16 from 32 to 256."""
    seen_classes: Annotated[str | None, TOLD] = None
    """How many classes by name are seen; or "flowers" (85), "animals" (119, FUNIT's), "vggface" (1802); or a file of
    their names. Default: three quarters."""
    unseen: Path | None = None
    """Another folder or archive: its classes are the unseen ones, and all of SOURCE are seen."""
    labels: Path | None = None
    """imagelabels.mat of Oxford Flowers-102, whose images lie in no class folders."""
    boxes: Path | None = None
    """List of lines FILE LEFT TOP RIGHT BOTTOM, such as FUNIT's of Animal Faces: takes these parts, and no more."""
    images_per_class: Annotated[int | None, TOLD] = None
    """Take the first so many images of each class by name. Default: all."""
    min_images: int = 1
    """Leave out classes with fewer images."""
    format: Layout = "flat"
    """One row of images, or LoFGAN's (classes, images, S, S, 3), all classes cut to the smallest."""
    workers: int = 4
    """Threads that decode. The result does not depend on their number."""
    skip_corrupt: FlagCreatePairsOff[bool] = False
    """Leave out images that cannot be read, and list them in the manifest."""
    force: FlagCreatePairsOff[bool] = False
    """Replace what was built in --output before, once the new is complete."""

    def __post_init__(self) -> None:
        if self.images_per_class is not None:
            at_least("images_per_class", self.images_per_class, 1)
        at_least("min_images", self.min_images, 1)
        at_least("workers", self.workers, 1)
        if self.unseen is not None and self.seen_classes is not None:
            raise UserError("--unseen and --seen-classes both say which classes are seen: expected one of them")
        if self.unseen is not None and not self.labels is self.boxes is None:
            raise UserError("--labels and --boxes are for one source: expected no --unseen beside them")
