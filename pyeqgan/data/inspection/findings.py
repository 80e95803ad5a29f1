"""What looks at all images add up to: counts, duplicates, and what is wrong."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import numpy as np

from pyeqgan.data.inspection.duplicates import Bits, first_matches
from pyeqgan.data.inspection.look import Look


@dataclass(frozen=True)
class NearDuplicate:
    """An image and the first one before it that looks the same.

    Attributes:
        image: its name.
        of: name of the first.
        bits: in how many bits their hashes differ.
        where: "within a class", "across classes" or "across the split": one is seen, the other unseen.
    """

    image: str
    of: str
    bits: int
    where: str


@dataclass(frozen=True)
class Findings:
    """What `inspect.json` holds.

    Attributes:
        classes: name, number of images and whether it is seen, of each.
        images: fewest, median and most images of a class, and their sum.
        imbalance: most images of a class over fewest.
        sizes: number of images by width × height.
        modes: number of images by colour mode.
        corrupt: image and reason, of those that cannot be read.
        exact_duplicates: groups of images whose files, or pixels, are the same.
        near_duplicates: all that look like one before them, the exact ones included.
        wrong: what has to be mended, a line each.
    """

    classes: list[dict[str, Any]]
    images: dict[str, float]
    imbalance: float
    sizes: dict[str, int]
    modes: dict[str, int]
    corrupt: dict[str, str]
    exact_duplicates: list[list[str]]
    near_duplicates: list[NearDuplicate]
    wrong: list[str]

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return asdict(self)


def findings(
    looks: Sequence[Look], names: Sequence[str], seen: int, *, shots: int, near: int, damage: Sequence[str] = ()
) -> Findings:
    """Add up the looks at all images.

    Args:
        looks: class after class, in the order of the data set.
        names: of the classes.
        seen: how many of them, the first, are seen.
        shots: as many images a class needs.
        near: bits up to which images are near duplicates.
        damage: what else is wrong, such as checksums.
    """
    counts = [0] * len(names)
    same = defaultdict(list)
    for one in looks:
        counts[one.class_index] += 1
        if one.error is None:
            same[one.digest].append(one.name)
    corrupt = {one.name: one.error for one in looks if one.error is not None}
    pairs = _near_duplicates([one for one in looks if one.error is None], seen, near)
    small = [
        f"class {name!r} has {n} images, --shots {shots}" for name, n in zip(names, counts, strict=True) if n < shots
    ]
    leaks = [
        f"unseen {pair.image} is seen {pair.of}: {pair.bits} bits differ" for pair in pairs if "split" in pair.where
    ]
    return Findings(
        classes=[{"name": name, "images": counts[c], "seen": c < seen} for c, name in enumerate(names)],
        images={"min": min(counts), "median": median(counts), "max": max(counts), "sum": sum(counts)},
        imbalance=max(counts) / min(counts),
        sizes=dict(Counter(one.size for one in looks).most_common()),
        modes=dict(Counter(one.mode for one in looks).most_common()),
        corrupt=corrupt,
        exact_duplicates=[group for group in same.values() if len(group) > 1],
        near_duplicates=pairs,
        wrong=[*damage, *corrupt.values(), *leaks, *small],
    )


def _near_duplicates(looks: Sequence[Look], seen: int, near: int) -> list[NearDuplicate]:
    """Seen images come first: that an unseen one looks like any of them shows in its first match."""
    if not looks:
        return []
    bits: Bits = np.array([one.bits for one in looks])
    pairs = []
    for index, first in enumerate(first_matches(bits, near).tolist()):
        if first >= 0:
            one, other = looks[index], looks[first]
            differing = int(np.count_nonzero(bits[index] != bits[first]))
            pairs.append(NearDuplicate(one.name, other.name, differing, _where(one, other, seen)))
    return pairs


def _where(one: Look, other: Look, seen: int) -> str:
    if one.class_index == other.class_index:
        return "within a class"
    return "across the split" if other.class_index < seen <= one.class_index else "across classes"
