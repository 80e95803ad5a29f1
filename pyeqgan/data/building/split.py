"""Which classes are seen: a number of them, a published split, or a file of names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from pyeqgan.data.classes import three_quarters
from pyeqgan.errors import UserError

# Classes, and how many of them are seen, of LoFGAN's experiments and those after it.
PAPERS = {"flowers": (102, 85), "animals": (149, 119), "vggface": (2354, 1802)}

# Of Animal Faces FUNIT names the classes it evaluates on, by WordNet's numbers; they are not the last ones.
ANIMALS_UNSEEN = frozenset(
    f"n{number:08d}"
    for number in (
        2086240, 2091467, 2092002, 2095314, 2095889, 2096437, 2098286, 2099429, 2099849, 2101006,
        2102480, 2105412, 2105855, 2106030, 2106382, 2107142, 2110627, 2110806, 2110958, 2112018,
        2112350, 2113023, 2113799, 2115641, 2115913, 2123045, 2123394, 2124075, 2125311, 2138441,
    )
)  # fmt: skip


def seen_names(which: str | None, names: Sequence[str]) -> frozenset[str]:
    """The seen ones among the classes `names`, sorted by name.

    Args:
        which: a number: the first so many; "flowers" (the first 85), "animals" (all but FUNIT's 30 for evaluation) or
            "vggface" (the first 1802); a file of names, one a line. None: the first three quarters, at least one.
        names: of all classes.

    Raises:
        UserError: a number out of range, other classes than the paper's, or a name that no class has.
    """
    if which is None:
        return frozenset(names[: three_quarters(len(names))])
    if which.lstrip("-").isdigit():
        if not 1 <= int(which) <= len(names):
            raise UserError(f"--seen-classes {which}, expected 1 to {len(names)}, the number of classes")
        return frozenset(names[: int(which)])
    if which not in PAPERS:
        return _from_file(Path(which), names)
    count, seen = PAPERS[which]
    if len(names) != count:
        raise UserError(f"--seen-classes {which} splits {count} classes, got {len(names)}: expected a number or a file")
    if which != "animals":
        return frozenset(names[:seen])
    unseen = {name for name in names if PurePosixPath(name).name in ANIMALS_UNSEEN}
    if len(unseen) != count - seen:
        raise UserError(f"--seen-classes animals: {len(unseen)} of FUNIT's 30 unseen classes are here, as n02086240 is")
    return frozenset(names) - unseen


def _from_file(path: Path, names: Sequence[str]) -> frozenset[str]:
    try:
        listed = frozenset(filter(None, map(str.strip, path.read_text().splitlines())))
    except (OSError, ValueError) as error:
        known = ", ".join(PAPERS)
        raise UserError(f"--seen-classes {str(path)!r}, expected a number, {known}, or a file of names") from error
    if unknown := sorted(listed - set(names)):
        raise UserError(f"{str(path)!r} names {len(unknown)} classes that are not there, {unknown[0]!r} among them")
    if not listed:
        raise UserError(f"{str(path)!r} names no class")
    return listed
