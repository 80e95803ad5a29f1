"""What `pyeqgan evaluate` can be told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import FlagCreatePairsOff

from pyeqgan.options.fields import TOLD, Device, Of, at_least

FeatureKind = Literal["self", "inception"]
Backbone = Literal["vgg", "alex"]
Compat = Literal["lofgan", "wavegan"]


@dataclass(frozen=True)
class EvaluateOptions:
    """Evaluate a trained generator on what it was not trained on, beside trivial ones: an EqGAN on unseen classes, an
    ECGAN on the layouts of the test half.

    Raises:
        UserError: an option is out of range.
    """

    checkpoint: Path
    """Folder of a run, whose last good checkpoint is taken, or of one checkpoint."""
    output: Path
    """Folder for the numbers (JSON) and pictures."""
    data: Annotated[str | None, TOLD] = None
    """Data set, as for train. Default: the run's."""
    seen_classes: Annotated[int | None, Of("eqgan"), TOLD] = None
    """The first so many classes train the features, the rest are evaluated on. Default: as in the run's data."""
    fakes_per_class: Annotated[int, Of("eqgan")] = 128
    """Images generated per unseen class."""
    references_per_class: Annotated[int, Of("eqgan")] = 10
    """Images of each unseen class to generate from; the rest are the real ones to compare with."""
    shots: Annotated[int | None, Of("eqgan"), TOLD] = None
    """How many references are fused into each image. Default: as in training."""
    features: FeatureKind = "self"
    """Compare images in the features of a network trained on the seen classes (of the segmenter of layouts), kept in
    --output; or of FID's Inception network, whose numbers compare with published ones."""
    feature_steps: Annotated[int | None, TOLD] = None
    """Training steps of the network on the seen classes, default 200; of the segmenter of layouts, default 250."""
    lpips: Backbone | None = None
    """Measure LPIPS, too, with this backbone; papers on few-shot generation report vgg."""
    weights: Annotated[Path | None, TOLD] = None
    """Folder of the weights that inception and lpips need. Default: PYEQGAN_WEIGHTS, then torch.hub's cache."""
    compat: Annotated[Compat | None, Of("eqgan")] = None
    """Measure as the script of that paper does. Needs --features inception --lpips vgg."""
    downstream: Annotated[FlagCreatePairsOff[bool], Of("eqgan")] = False
    """Train classifiers of the unseen classes with and without generated images, too."""
    repeats: Annotated[int | None, TOLD] = None
    """Seeds to repeat with: generating, default 1, and --downstream, default 5."""
    seed: int = 0
    """Seed of everything drawn, and of the network on the seen classes."""
    device: Device = "auto"
    """Where to compute; auto is cuda if there is one."""
    force: FlagCreatePairsOff[bool] = False
    """Replace an earlier evaluation in --output; other files are left alone."""

    def __post_init__(self) -> None:
        for name in ("fakes_per_class", "references_per_class"):
            at_least(name, getattr(self, name), 1)
        for name in ("seen_classes", "shots", "repeats", "feature_steps"):
            if getattr(self, name) is not None:
                at_least(name, getattr(self, name), 1)
        at_least("seed", self.seed, 0)
