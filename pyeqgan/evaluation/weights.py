"""Published weights of other people's networks: where they are looked for, and how they are known to be the right ones.

Nothing is downloaded. A file lies in a folder that is named (`--weights`, or ``PYEQGAN_WEIGHTS`` in the environment),
or where torch.hub keeps what it has downloaded.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import torch

from pyeqgan.errors import UserError

VARIABLE = "PYEQGAN_WEIGHTS"


@dataclass(frozen=True)
class Weights:
    """A published file.

    Attributes:
        network: what it holds, in words.
        names: what the file is called; the same file may be published under several names.
        sha256: how the SHA-256 of its bytes begins.
        url: where it is published.
    """

    network: str
    names: tuple[str, ...]
    sha256: str
    url: str


INCEPTION = Weights(
    "the FID Inception network",
    ("pt_inception-2015-12-05-6726825d.pth", "weights-inception-2015-12-05-6726825d.pth"),
    "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
)
BACKBONES = {
    "vgg": Weights(
        "LPIPS's VGG-16", ("vgg16-397923af.pth",), "397923af", "https://download.pytorch.org/models/vgg16-397923af.pth"
    ),
    "alex": Weights(
        "LPIPS's AlexNet",
        ("alexnet-owt-7be5be79.pth",),
        "7be5be79",
        "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
    ),
}


def find_weights(weights: Weights, folder: Path | None) -> Path:
    """The file of some weights, whose checksum is right.

    Args:
        weights: which.
        folder: where to look first; if None, in the folder that ``PYEQGAN_WEIGHTS`` names, if any.

    Raises:
        UserError: the folder or the file does not exist, cannot be read, or is another than the published one.
    """
    named = folder or (Path(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None)
    if named is not None and not named.is_dir():
        raise UserError(f"no folder {named}, expected one that holds weights (--weights or {VARIABLE})")
    places = [place for place in (named, Path(torch.hub.get_dir()) / "checkpoints") if place is not None]
    for path in (place / name for place in places for name in weights.names):
        if path.is_file():
            check_weights(path, weights.sha256)
            return path
    raise UserError(
        f"no weights of {weights.network}: expected {' or '.join(weights.names)} in {' or '.join(map(str, places))} "
        f"(--weights or {VARIABLE} name another folder); nothing is downloaded, it is published at {weights.url}"
    )


def check_weights(path: Path, sha256: str) -> None:
    """UserError unless the SHA-256 of a file begins as it should."""
    total = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(2**20):
                total.update(block)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    if not total.hexdigest().startswith(sha256):
        found = total.hexdigest()[: len(sha256)]
        raise UserError(f"{path} is not the published file: expected a SHA-256 of {sha256}…, got {found}…")
