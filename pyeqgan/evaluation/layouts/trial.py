"""All painters on the same test layouts, batch by batch: of their images only counts, features and samples are kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from pyeqgan.data import to_uint8
from pyeqgan.data.images import Pixels
from pyeqgan.data.layouts import LayoutImages, Thresholds, canny, instance_edges
from pyeqgan.evaluation.generators import check_images
from pyeqgan.evaluation.inception import InceptionFeatures
from pyeqgan.evaluation.layouts.agreement import class_counts
from pyeqgan.evaluation.layouts.contours import edge_counts
from pyeqgan.evaluation.layouts.painter import Paint, paint_means
from pyeqgan.evaluation.layouts.segmenter import Segmenter
from pyeqgan.evaluation.lpips import LPIPS


@dataclass(frozen=True)
class Looks:
    """What was seen of one painter's n images by S segmenters.

    Attributes:
        counts: (n,S,Nc,3), see `class_counts`.
        features: (n,S,64) of the segmenters.
        own_edges: (n,4) of the painted edges against those of the image, see `edge_counts`; (n,0) of no edges.
        real_edges: (n,4) of the painted edges against those of the real image, or (n,0).
        everywhere: (n,2,4) of an edge in every pixel, against the same two.
        inception: (n,2048), or (n,0) if not measured.
        lpips: (n,1) to the real image, or (n,0).
    """

    counts: Tensor
    features: Tensor
    own_edges: Tensor
    real_edges: Tensor
    everywhere: Tensor
    inception: Tensor
    lpips: Tensor

    @classmethod
    def joined(cls, parts: Sequence[Looks]) -> Looks:
        """All images of some batches."""
        return cls(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(cls)))


@dataclass(frozen=True)
class Sample:
    """One test layout to look at, labels (H,W), and all of it uint8 (H,W,3): edges, and images by their painters."""

    name: str
    labels: Tensor
    edges: Pixels | None
    images: Mapping[str, Pixels]


@dataclass(frozen=True)
class Painted:
    """One painter's batch: edges (B,H,W) bool, if it paints them, and images uint8 (B,H,W,3)."""

    edges: Tensor | None
    images: Pixels


@dataclass(frozen=True)
class Trial:
    """Everything that paints and everything that looks."""

    pairs: LayoutImages
    paint: Paint
    colours: Tensor
    segmenters: Sequence[Segmenter]
    tolerance: int
    thresholds: Thresholds
    inception: InceptionFeatures | None = None
    perceptual: LPIPS | None = None

    def run(self, indices: Sequence[int]) -> tuple[dict[str, Looks], list[Sample]]:
        """Paint some layouts, and look at the images of all painters, by their names in `result.TITLES`."""
        pairs = [self.pairs.pair(index) for index in indices]
        real = np.stack([image for image, _ in pairs])
        labels = torch.from_numpy(np.stack([labels for _, labels in pairs]))
        real_edges = self._edges(real)
        painted = {
            **self._paint(labels, indices),
            "painter": self._with_edges(to_uint8(paint_means(labels, self.colours))),
            "real": Painted(real_edges, real),
        }
        looks = {name: self._look(batch, labels, real, real_edges) for name, batch in painted.items()}
        edges = painted["generator"].edges
        samples = [
            Sample(
                self.pairs.name(index),
                labels[row],
                None if edges is None else _white(edges[row]),
                {name: batch.images[row] for name, batch in painted.items()},
            )
            for row, index in enumerate(indices)
        ]
        return looks, samples

    def features(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Features (n,S,64) and (n,2048) or (n,0) of some real images."""
        images = np.stack([self.pairs.pair(index)[0] for index in indices])
        return torch.stack([network.look(images)[1] for network in self.segmenters], 1), self._inception(images)

    def _paint(self, labels: Tensor, indices: Sequence[int]) -> dict[str, Painted]:
        """What is evaluated: "generator", and what it was "unrefined", if it is refined."""
        edges, images, refined = self.paint(labels, self._outlines(indices))
        count, height, width = labels.shape
        of = f"layouts {self.pairs.name(indices[0])!r} to {self.pairs.name(indices[-1])!r}"
        check_images("paint: images", images, (count, 3, height, width), of=of)
        drawn = None
        if edges is not None:
            check_images("paint: edges", edges, (count, 1 if edges.shape[1:2] == (1,) else 3, height, width), of=of)
            drawn = edges.detach().cpu().mean(1) > 0
        if refined is None:
            return {"generator": Painted(drawn, to_uint8(images))}
        check_images("paint: refined", refined, (count, 3, height, width), of=of)
        return {"generator": Painted(drawn, to_uint8(refined)), "unrefined": Painted(drawn, to_uint8(images))}

    def _outlines(self, indices: Sequence[int]) -> Tensor | None:
        """Edges of the instances (n,1,H,W), if they are known."""
        maps = [self.pairs.instances(index) for index in indices] if self.pairs.has_instances else []
        return torch.from_numpy(instance_edges(np.stack(maps)))[:, None] if maps else None

    def _look(self, batch: Painted, labels: Tensor, real: Pixels, real_edges: Tensor) -> Looks:
        found, features = zip(*(network.look(batch.images) for network in self.segmenters), strict=True)
        targets = (self._edges(batch.images), real_edges)
        own, others = (self._compared(batch.edges, target) for target in targets)
        return Looks(
            torch.stack([class_counts(x, labels, self.pairs.num_classes) for x in found], 1),
            torch.stack(features, 1),
            own,
            others,
            torch.stack([self._compared(torch.ones_like(target), target) for target in targets], 1),
            self._inception(batch.images),
            self._lpips(batch.images, real),
        )

    def _compared(self, drawn: Tensor | None, target: Tensor) -> Tensor:
        return target.new_zeros(len(target), 0) if drawn is None else edge_counts(drawn, target, self.tolerance)

    def _edges(self, images: Pixels) -> Tensor:
        """Where the edges of images uint8 (n,H,W,3) are: (n,H,W) bool."""
        return torch.from_numpy(canny(images, self.thresholds) > 0)

    def _with_edges(self, images: Pixels) -> Painted:
        return Painted(self._edges(images), images)

    def _inception(self, images: Pixels) -> Tensor:
        return torch.empty(len(images), 0) if self.inception is None else self.inception.features(images)

    def _lpips(self, images: Pixels, real: Pixels) -> Tensor:
        if self.perceptual is None:
            return torch.empty(len(images), 0)
        difference = self.perceptual.embed(images) - self.perceptual.embed(real)
        return difference.double().square().sum(1, keepdim=True)


def _white(edges: Tensor) -> Pixels:
    """Edges (H,W) bool, white on black: uint8 (H,W,3)."""
    picture: Pixels = np.repeat(np.where(edges.numpy(), np.uint8(255), np.uint8(0))[..., None], 3, axis=2)
    return picture
