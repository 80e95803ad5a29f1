"""What `pyeqgan export` can be told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import FlagCreatePairsOff

from pyeqgan.errors import UserError
from pyeqgan.options.fields import TOLD, Of, at_least

Format = Literal["hub", "onnx", "torch"]


@dataclass(frozen=True)
class ExportOptions:
    """Write a trained generator to a folder that can be given away, with a model card.

    Raises:
        UserError: an option is out of range.
    """

    checkpoint: Path
    """Folder of a run, whose last good checkpoint is taken, or of one checkpoint."""
    output: Path
    """New or empty folder for the weights, config.json and README.md, the card."""
    format: Format = "hub"
    """hub: safetensors, for from_pretrained; onnx: model.onnx; torch: model.pt2, a program that needs torch alone."""
    shots: Annotated[int | None, Of("eqgan"), TOLD] = None
    """For onnx and torch of an EqGAN: number of images that are fused, if it is to be fixed. Default: any from 3."""
    evaluation: Annotated[Path | None, TOLD] = None
    """Folder of an evaluation whose numbers the card shows. Default: evaluation/ in the run, if it is there."""
    license: Annotated[str | None, TOLD] = None
    """License that you give the weights, by its name on the hub, such as apache-2.0. Default: none is stated."""
    force: FlagCreatePairsOff[bool] = False
    """Replace an earlier export in --output, if nothing else is there."""

    def __post_init__(self) -> None:
        if self.shots is not None:
            at_least("shots", self.shots, 1)
            if self.format == "hub":
                raise UserError("--shots: expected with --format onnx or torch; from a hub folder any number is fused")
