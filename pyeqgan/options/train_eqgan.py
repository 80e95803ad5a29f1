"""What `pyeqgan train` can be told of an EqGAN."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pyeqgan.errors import UserError
from pyeqgan.options.fields import TOLD, at_least
from pyeqgan.options.train import TrainOptions

Fusion = Literal["local", "mean"]
Equalization = Literal["scales", "shared"]
Detail = Literal["fused", "base", "none"]
Penalty = Literal["class", "adversarial", "none"]


@dataclass(frozen=True)
class EqGANOptions(TrainOptions):
    """Train an EqGAN on the seen classes of a data set.

    Raises:
        UserError: an option is out of range.
    """

    data: str = "embedded"
    """Folder of classes or of data build, .npy archive (classes, images, H, W, 3), or "embedded": flowers drawn."""
    image_size: int = 128
    """Height and width of the images, a multiple of 16 from 32 to 256."""
    batch_size: int = 8
    """Episodes per step, of all processes together; each gives one generated image."""
    shots: int = 3
    """K, images of one class per episode, fused into one."""
    width: float = 1.0
    """Factor on the number of channels of both networks."""
    seen_classes: Annotated[int | None, TOLD] = None
    """Train on the first so many classes by name; the rest stay unseen. Default: three quarters of them."""
    flip: bool = True
    """Mirror each image with probability 1/2."""

    fusion: Fusion = "local"
    """How features of the K images are fused: by their best local matches, or by the mean (an ablation)."""
    fusion_rate: float = 0.5
    """Share of the positions that local fusion replaces."""
    equalization: Equalization = "scales"
    """One equalization at each scale, or one projected to all."""
    detail: Detail = "fused"
    """Fine detail given to the two finest scales: of all images along their matches, of the base image, or none."""

    learning_rate: float = 1e-4
    """Adam's learning rate, of both networks."""
    weight_decay: float = 1e-4
    """Adam's weight decay (L2), of both networks."""
    penalty: Penalty = "class"
    """Gradient penalty: on the true class logit (LoFGAN), on the adversarial logit (R1), or none."""
    penalty_weight: float = 10.0
    """Weight of the gradient penalty."""
    penalty_every: int = 1
    """Compute the penalty every so many steps, with its weight times as much."""
    classification_weight: float = 1.0
    """Weight of both networks' cross entropy."""
    reconstruction_weight: float = 0.5
    """Weight of the local reconstruction."""
    consistency_weight: float = 1.0
    """Weight of the consistent equalization loss."""
    mode_seeking_weight: float = 0.0
    """Weight of the mode seeking loss; above 0 it costs a second pass of the generator."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("shots", self.shots, 1)
        at_least("penalty_every", self.penalty_every, 1)
        if self.seen_classes is not None:
            at_least("seen_classes", self.seen_classes, 1)
        if self.image_size % 16 or not 32 <= self.image_size <= 256:
            raise UserError(f"--image-size {self.image_size}, expected a multiple of 16 from 32 to 256")
        weights = ("penalty", "classification", "reconstruction", "consistency", "mode_seeking")
        self.check_numbers(
            positive=("width", "learning_rate"),
            not_negative=("weight_decay", *(f"{weight}_weight" for weight in weights)),
        )
        if not 0 < self.fusion_rate <= 1:
            raise UserError(f"--fusion-rate {self.fusion_rate}, expected a number in (0, 1]")
