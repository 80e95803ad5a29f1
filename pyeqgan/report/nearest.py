"""Which training image is nearest to an image: the question whether a generator has memorised what it was shown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pyeqgan.data import ImageClasses, to_tensor
from pyeqgan.data.images import Pixels

SIDE = 32
AT_ONCE = 256


@dataclass(frozen=True)
class Nearest:
    """For each of n images the nearest of all images of some classes.

    Attributes:
        images: the nearest ones as they were compared, mirrored or not, uint8 (n,S,S,3).
        class_names: of their classes.
        distances: float64 (n,): mean absolute difference over pixels and channels, on [−1, 1].
    """

    images: Pixels
    class_names: list[str]
    distances: Tensor

    def __getitem__(self, part: slice) -> Nearest:
        """Those of some of the images."""
        return Nearest(self.images[part], self.class_names[part], self.distances[part])


def nearest_images(
    images: Pixels, classes: ImageClasses, progress: Callable[[int, int], None] = lambda done, total: None
) -> Nearest:
    """The nearest image of `classes`, or its mirror image, to each of `images`.

    Nearness is that of pixels, averaged down to 32²: 0 for a copy, and no network has a say. Something shifted by a few
    pixels is further than it looks. Each image of `classes` is read once and compared with all.

    Args:
        images: uint8 (n,S,S,3), n >= 1, S the classes' image size.
        classes: at least one with at least one image.
        progress: told how many images were compared, and how many there are.

    Raises:
        UserError: an image cannot be read.
    """
    queries = _small(images)
    total = sum(classes.count(index) for index in range(len(classes)))
    distances = torch.full((len(images),), torch.inf, dtype=torch.float64)
    found = [(0, 0, False)] * len(images)
    done = 0
    for class_index in range(len(classes)):
        for start in range(0, classes.count(class_index), AT_ONCE):
            part = range(start, min(start + AT_ONCE, classes.count(class_index)))
            read = np.stack([classes.image(class_index, index) for index in part])
            for mirrored in (False, True):
                others = _small(read[:, :, ::-1] if mirrored else read)
                near, which = (torch.cdist(queries, others, p=1) / queries.shape[1]).min(1)
                for query in (near < distances).nonzero().flatten().tolist():
                    distances[query] = near[query]
                    found[query] = (class_index, part[int(which[query])], mirrored)
            done += len(part)
            progress(done, total)
    return Nearest(
        np.stack([classes.image(c, i)[:, ::-1] if mirrored else classes.image(c, i) for c, i, mirrored in found]),
        [classes.class_names[c] for c, _, _ in found],
        distances,
    )


def _small(images: Pixels) -> Tensor:
    """(n, 3·32·32) float64 in [−1, 1]."""
    return F.adaptive_avg_pool2d(to_tensor(np.ascontiguousarray(images)).double(), SIDE).flatten(1)
