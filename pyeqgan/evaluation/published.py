"""What papers report on three data sets, for a table beside one's own numbers."""

from __future__ import annotations

from dataclasses import dataclass

from pyeqgan.data import Split

SHOTS = 3
IMAGE_SIZE = 128


@dataclass(frozen=True)
class Row:
    """The numbers of one method, and which of them ("FID", "LPIPS") are confirmed by a source that was read."""

    method: str
    fid: float
    lpips: float
    confirmed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Published:
    """A data set's name and the rows of its table."""

    data: str
    rows: tuple[Row, ...]


BOTH = ("FID", "LPIPS")
# By seen classes, unseen classes and images a class of the archives that LoFGAN published; 3 shots, 128². LoFGAN's
# confirmed numbers are quoted to its authors in issue 4 of their repository, WaveGAN's are in its abstract.
TABLES = {
    (85, 17, 40): Published(
        "Flowers",
        (
            Row("LoFGAN", 79.33, 0.3862, ("LPIPS",)),
            Row("WaveGAN", 42.17, 0.3868, BOTH),
            Row("F2DGAN", 38.26, 0.4325),
        ),
    ),
    (119, 30, 100): Published(
        "Animal Faces",
        (
            Row("LoFGAN", 112.81, 0.4964, ("FID",)),
            Row("WaveGAN", 30.35, 0.5076, BOTH),
            Row("F2DGAN", 25.24, 0.5463),
        ),
    ),
    (1802, 552, 100): Published(
        "VGGFace",
        (
            Row("LoFGAN", 20.31, 0.2869),
            Row("WaveGAN", 4.96, 0.3822, BOTH),
            Row("F2DGAN", 4.25, 0.3521),
        ),
    ),
}


def published(split: Split, *, shots: int) -> Published | None:
    """The table of the data set whose counts these classes have, if images and shots are the published ones too."""
    unseen = split.unseen
    if shots != SHOTS or unseen.image_size != IMAGE_SIZE or not len(unseen):
        return None
    counts = {unseen.count(c) for c in range(len(unseen))}
    return TABLES.get((len(split.seen), len(unseen), counts.pop())) if len(counts) == 1 else None
