"""The protocol: how many references, images and repetitions, and in which networks they are measured."""

from __future__ import annotations

from dataclasses import dataclass, field

from pyeqgan.errors import UserError
from pyeqgan.evaluation.classify import FeatureConfig
from pyeqgan.evaluation.variants import PROTOCOL, VARIANTS, Variant
from pyeqgan.options.evaluate import Backbone, Compat, FeatureKind


@dataclass(frozen=True)
class Protocol:
    """LoFGAN's protocol (ICCV 2021), each image passing each network once.

    Attributes:
        shots: images that each generated one is made of; also for the pixel mean.
        fakes_per_class: images generated per class.
        references_per_class: the first so many images of a class, at least `shots`; the rest are real ones.
        features: of a network trained on the seen classes, or of FID's Inception network.
        lpips: also measure LPIPS with this backbone.
        compat: measure as this paper's script does, see `variants.VARIANTS`; needs Inception and LPIPS's "vgg".
        repeats: seeds of the generator's images (1 by default) and of the downstream training (5 by default).
        downstream: also train classifiers with and without generated images, see `classify_downstream`.
        seed: of everything drawn. The same seed gives the same numbers on one machine.
        feature_training: of the network on the seen classes.

    Raises:
        UserError: a number out of range, or a variant without its networks.
    """

    shots: int
    fakes_per_class: int = 128
    references_per_class: int = 10
    features: FeatureKind = "self"
    lpips: Backbone | None = None
    compat: Compat | None = None
    repeats: int | None = None
    downstream: bool = False
    seed: int = 0
    feature_training: FeatureConfig = field(default_factory=FeatureConfig)

    def __post_init__(self) -> None:
        for name, value, least in (
            ("shots", self.shots, 1),
            ("fakes per class", self.fakes_per_class, 1),
            ("references per class", self.references_per_class, self.shots),
            ("repeats", 1 if self.repeats is None else self.repeats, 1),
            ("seed", self.seed, 0),
        ):
            if value < least:
                raise UserError(f"{name} {value}, expected at least {least}")
        if self.compat is not None and (self.features, self.lpips) != ("inception", "vgg"):
            raise UserError(
                f"compat {self.compat}: expected features inception and lpips vgg, "
                f"got features {self.features} and lpips {self.lpips or 'none'}"
            )

    @property
    def variant(self) -> Variant:
        """What the measuring does differently."""
        return PROTOCOL if self.compat is None else VARIANTS[self.compat]
