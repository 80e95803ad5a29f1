"""How published scripts measure, where that differs from the protocol: their numbers compare with these only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pyeqgan.data import ImageClasses, to_tensor
from pyeqgan.data.images import Pixels
from pyeqgan.evaluation.generators import Generate


@dataclass(frozen=True)
class Variant:
    """What a script does that the protocol does not; the default is the protocol.

    Attributes:
        shuffled: the images of each class are shuffled before the first ones become references; classes of one
            size are shuffled alike.
        resampled: so many real images a class, drawn with replacement, stand for all that remain.
        replacement: the references of an image are drawn with replacement, so that one may be fused with itself.
        preparation: "published" reduces images for LPIPS to 32² by bilinear interpolation without antialiasing and
            maps pixels to [−3, 1] instead of [−1, 1] (``normalize=True`` for images that are normalised already),
            and enlarges them for Inception as pytorch-fid does instead of as TensorFlow did.
    """

    shuffled: bool = False
    resampled: int | None = None
    replacement: bool = False
    preparation: Literal["protocol", "published"] = "protocol"


PROTOCOL = Variant()
VARIANTS = {
    "lofgan": Variant(shuffled=True, resampled=128, replacement=True, preparation="published"),
    "wavegan": Variant(replacement=True, preparation="published"),
}
"""What `main_metric.py` of the authors' repositories does, as it was read.

- ``wavegan``: github.com/kobeshegu/ECCV2022_WaveGAN at 73de3c8, which equals LoFGAN's first version. The first images
  of each class are the references, the rest are real; 128 fakes a class, each of 3 references drawn with replacement;
  FID by pytorch-fid of all images pooled; LPIPS (VGG) of all pairs of a class, mean over classes.
- ``lofgan``: github.com/edward3862/LoFGAN-pytorch at ae230eb: as above, but the images are shuffled, without a fixed
  seed. That every class gives 128 real images, drawn with replacement ("in case real images are less than 128"), is
  in astonastonaston/LoFGAN-pytorch at e9cd37a, a fork, and as a comment in F2DGAN's copy; a third version in LoFGAN's
  own history could not be read. Which version the paper's numbers are of is not known to us.

Not reproduced: their draws (NumPy's global generator), so that numbers agree in distribution only; the square root of
a covariance product by SciPy, whose rounding pytorch-fid mends by adding to the diagonal; OpenCV's fixed-point numbers
in the reduction (ours follows the same rule and rounds half up; it was not compared with OpenCV itself); the ε that
keeps LPIPS from dividing by 0. Checkpoints and file formats of these repositories are not read.
"""


def shuffled(classes: ImageClasses, seed: int) -> ImageClasses:
    """A view of some classes with the images of each in another order, the same for classes of one size."""
    return _Shuffled(classes, seed)


def with_replacement(generate: Generate, shots: int) -> Generate:
    """A generator that is given `shots` references for each image, drawn with replacement from all it is given."""

    def draw(references: Tensor, count: int, generator: torch.Generator) -> Tensor:
        picks = torch.randint(len(references), (count, shots), generator=generator)
        return torch.cat([generate(references[rows], 1, generator) for rows in picks])

    return draw


def resample(features: Sequence[Tensor], count: int, seed: int) -> list[Tensor]:
    """`count` rows of each class (n,D), drawn with replacement."""
    rng = np.random.default_rng(seed)
    return [f[rng.integers(len(f), size=count)] for f in features]


def reduce_for_lpips(images: Pixels, variant: Variant, size: int) -> Tensor:
    """Images uint8 (n,S,S,3) as LPIPS is given them, float32 (n,3,size,size): in [−1, 1] by the protocol.

    The protocol takes means of areas. Images that are smaller than `size` stay as they are.
    """
    if variant.preparation == "protocol":
        x = to_tensor(images)
        return F.interpolate(x, (size, size), mode="area") if x.shape[-1] > size else x
    x = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float()
    if x.shape[-1] > size:
        x = (F.interpolate(x, (size, size), mode="bilinear") + 0.5).floor()
    return 2 * (x / 127.5 - 1) - 1


class _Shuffled:
    def __init__(self, source: ImageClasses, seed: int) -> None:
        self._source, self._seed = source, seed
        self.class_names, self.image_size = source.class_names, source.image_size

    def __len__(self) -> int:
        return len(self._source)

    def count(self, class_index: int) -> int:
        return self._source.count(class_index)

    def image(self, class_index: int, image_index: int) -> Pixels:
        order = np.random.default_rng(self._seed).permutation(self.count(class_index))
        return self._source.image(class_index, int(order[image_index]))
