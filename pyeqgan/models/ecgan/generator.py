"""ECGAN's generator: a layout to an edge map, an image, and the image refined."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pyeqgan.models.ecgan.branches import Branches, SemanticPreserving
from pyeqgan.models.ecgan.config import ECGANConfig
from pyeqgan.models.ecgan.layout import NEGATIVE_SLOPE, Layout
from pyeqgan.models.ecgan.trunk import Trunk
from pyeqgan.models.pretrained import Pretrained


class ECGANOutput(NamedTuple):
    """What a generator call returns; B rows throughout.

    Attributes:
        edges: I'_e (B,3,H,W) in [-1, 1], high at edges; None without an edge branch.
        images: I' (B,3,H,W) in [-1, 1].
        refined: I'' (B,3,H,W) in [-1, 1]; None without the semantic preserving module.
        features: the trunk's maps at H/8, H/4 and H/2, which the contrastive loss looks at; empty from ``generate``.
    """

    edges: Tensor | None
    images: Tensor
    refined: Tensor | None
    features: list[Tensor]

    @property
    def final(self) -> Tensor:
        """The result, (B,3,H,W) in [-1, 1]: I'', or I' where there is none."""
        return self.images if self.refined is None else self.refined

    @property
    def modalities(self) -> dict[str, Tensor]:
        """What the discriminator judges, by the name of its field."""
        maps = {"edges": self.edges, "images": self.images, "refined": self.refined}
        return {name: map for name, map in maps.items() if map is not None}


class ECGANGenerator(Pretrained):
    """The generator of ECGAN (ICLR 2023, arXiv 2307.12084): edges guide the image, the layout refines it.

    A SPADE trunk turns the layout into features F, two branches turn F into edges I'_e and an image I', the edges'
    attention is transferred to the image, and the semantic preserving module refines it to I''.

    Works under autocast and on any device. The output depends on the layout alone, and in training mode on the others
    of the batch, through batch norm.
    """

    config_type = ECGANConfig

    def __init__(self, config: ECGANConfig) -> None:
        super().__init__()
        self.config = config
        self.trunk = Trunk(config)
        self.branches = Branches(config)
        self.semantic = SemanticPreserving(config) if config.contains("semantic") else None

    def forward(self, labels: Tensor, instance_edges: Tensor | None = None) -> ECGANOutput:
        """Generate one image from each layout.

        Args:
            labels: (B,H,W) int64 in [0, N_c), or -1 where there is no label.
            instance_edges: (B,1,H,W) floating, 1 at borders between instances and 0 elsewhere, if the configuration
                has them; else None.

        Raises:
            ValueError: a shape does not fit the configuration.
            TypeError: ``labels`` are not int64.
        """
        layout = Layout.of(self.config, "ECGANGenerator", labels, instance_edges)
        x, features = self.trunk(layout)
        activated = F.leaky_relu(x, NEGATIVE_SLOPE)
        edges, images = self.branches(activated)
        refined = None if self.semantic is None else self.semantic(activated, images, edges, layout)
        return ECGANOutput(edges, images, refined, features)

    @torch.no_grad()
    def generate(self, labels: Tensor, instance_edges: Tensor | None = None, *, batch_size: int = 16) -> ECGANOutput:
        """Generate one image from each layout, in eval mode: no image depends on the others of its batch.

        Args:
            labels: (n,H,W) int64 in [0, N_c), or -1 where there is no label; n >= 1. Moved to the model's device.
            instance_edges: (n,1,H,W), as for :meth:`forward`.
            batch_size: layouts computed at once, >= 1.

        Returns:
            Edges, images and refined images of all layouts, without features, on the model's device.

        Raises:
            ValueError: a shape does not fit, a label is out of range, or ``batch_size`` is below 1.
            TypeError: ``labels`` are not int64.
        """
        if batch_size < 1:
            raise ValueError(f"generate: batch_size: expected an integer >= 1, got {batch_size}")
        layout = Layout.of(self.config, "generate", labels, instance_edges)
        if not len(labels):
            raise ValueError("generate: labels: expected at least one layout, got none")
        low, high = int(labels.min()), int(labels.max())
        if low < -1 or high >= self.config.num_classes:
            expected = f"[0, {self.config.num_classes}) or -1"
            raise ValueError(f"generate: labels: expected values in {expected}, got {low} to {high}")
        parameter = next(self.parameters())
        layout = Layout(
            labels.to(parameter.device),
            None if instance_edges is None else instance_edges.to(parameter.device, parameter.dtype),
        )
        training = self.training
        self.eval()
        try:
            parts = [slice(start, start + batch_size) for start in range(0, len(labels), batch_size)]
            outputs = [self(*(None if x is None else x[part] for x in layout)).modalities for part in parts]
        finally:
            self.train(training)
        whole = {name: torch.cat([output[name] for output in outputs]) for name in outputs[0]}
        return ECGANOutput(whole.get("edges"), whole["images"], whole.get("refined"), [])
