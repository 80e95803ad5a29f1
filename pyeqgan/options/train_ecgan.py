"""What `pyeqgan train --model ecgan` can be told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from tyro.conf import FlagCreatePairsOff

from pyeqgan.errors import UserError
from pyeqgan.options.fields import TOLD, at_least
from pyeqgan.options.train import Model, TrainOptions

Modules = Literal["image", "edge", "transfer", "semantic"]
Norm = Literal["batch", "instance"]
Contrast = Literal["none", "single", "multi"]

WEIGHTS = ("edges", "images", "refined", "feature_matching", "perceptual", "similarity", "contrastive")


@dataclass(frozen=True)
class ECGANOptions(TrainOptions):
    """Train an ECGAN to paint label maps.

    Raises:
        UserError: an option is out of range.
    """

    model: Model = "ecgan"
    """What to train. --model eqgan --help tells the options of that one."""
    data: str = "embedded-layouts"
    """Folder of images/ and labels/ (perhaps in train/ and test/), of Cityscapes, ADE20K or COCO-Stuff as they unpack,
    or "embedded-layouts": landscapes drawn."""
    image_height: int = 256
    """Height of the images, a multiple of 2^--upsamplings; pictures are cropped in the middle and resized."""
    image_width: int = 256
    """Their width, likewise."""
    num_classes: Annotated[int | None, TOLD] = None
    """Number of classes of one's own folder. Default: as many as its classes.txt names, else found in its labels."""
    ignore_index: Annotated[int | None, TOLD] = None
    """Label of a pixel without a class, in one's own folder. Default: 255."""
    instance_edges: FlagCreatePairsOff[bool] = False
    """Give the generator the borders between instances, too, where the data set has them."""
    flip: bool = True
    """Mirror each pair with probability 1/2."""
    zoom: float = 1.0
    """Show a random part of each picture, up to so many times nearer."""

    width: float = 1.0
    """Factor on the number of channels of all networks."""
    upsamplings: int = 5
    """How often the trunk doubles its map; 5, 6 and 7 are published, 3 and 4 are lighter."""
    modules: Modules = "semantic"
    """The generator up to this module: image branch, edge branch, edge transfer, semantic preserving (all of it)."""
    norm: Norm = "batch"
    """Normalisation of the trunk."""

    generator_rate: float = 1e-4
    """Adam's learning rate of the generator."""
    discriminator_rate: float = 4e-4
    """Adam's learning rate of the discriminator and of the segmenter that the similarity loss asks."""
    edges_weight: float = 1.0
    """Weight of the edge maps in the adversarial loss and in feature matching."""
    images_weight: float = 1.0
    """Weight of the images before they are refined."""
    refined_weight: float = 2.0
    """Weight of the refined images."""
    feature_matching_weight: float = 10.0
    """Weight of feature matching."""
    perceptual_weight: float = 0.0
    """Weight of the distance in VGG's features, published as 10; needs the weights that evaluate --lpips vgg does."""
    weights: Annotated[str | None, TOLD] = None
    """Folder of those weights. Default: PYEQGAN_WEIGHTS, then torch.hub's cache."""
    similarity_weight: float = 1.0
    """Weight of the similarity loss; 0 trains no segmenter."""
    similarity_stride: int = 4
    """The similarity loss compares all pairs of every so manyth pixel in each direction."""
    contrastive_weight: float = 0.3
    """Weight of the contrastive loss."""
    contrast: Contrast = "multi"
    """Where pixels contrast: nowhere, at half the images' size, or within and across three scales."""
    contrast_pixels: int = 256
    """How many pixels of an image and class contrast, at most, at each scale."""
    contrast_rows: Annotated[int | None, TOLD] = None
    """How many of an image, whatever its labels, evenly of its classes: --cuda-graph needs it. Default: all drawn."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("image_height", "image_width", "upsamplings", "similarity_stride", "contrast_pixels"):
            at_least(name, getattr(self, name), 1)
        if self.num_classes is not None:
            at_least("num_classes", self.num_classes, 1)
        if self.ignore_index is not None:
            at_least("ignore_index", self.ignore_index, 0)
        if self.contrast_rows is not None:
            at_least("contrast_rows", self.contrast_rows, 1)
        elif self.cuda_graph and self.contrast != "none" and self.contrastive_weight:
            raise UserError("--cuda-graph: expected --contrast-rows, or the labels say how many pixels contrast")
        self.check_numbers(
            positive=("width", "zoom", "generator_rate", "discriminator_rate"),
            not_negative=tuple(f"{name}_weight" for name in WEIGHTS),
        )
        if not self.zoom >= 1:
            raise UserError(f"--zoom {self.zoom}, expected at least 1")
