"""What `pyeqgan app` can be told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pyeqgan.errors import UserError
from pyeqgan.options.fields import Device


@dataclass(frozen=True)
class AppOptions:
    """Open a local web page: drop images of a class, get new ones.

    Raises:
        UserError: an option is out of range.
    """

    checkpoint: Path
    """Folder of a run, whose last good checkpoint is taken, or of one checkpoint."""
    host: str = "127.0.0.1"
    """Address to listen on: this machine's own lets nobody else in, 0.0.0.0 everybody who can reach it, unasked."""
    port: int = 7860
    """Port to listen on; 0 takes any free one."""
    device: Device = "auto"
    """Where to compute; auto is cuda if there is one."""

    def __post_init__(self) -> None:
        if not 0 <= self.port < 2**16:
            raise UserError(f"--port {self.port}, expected 0 to {2**16 - 1}")
