"""Features of the Inception network in which published Fréchet and kernel distances are measured."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyeqgan.data.images import Pixels
from pyeqgan.evaluation.libraries import library
from pyeqgan.evaluation.variants import PROTOCOL, Variant
from pyeqgan.evaluation.weights import INCEPTION, find_weights

SIZE = 299
BATCH = 32


class InceptionFeatures:
    """The 2048 features of FID's Inception network (torch-fidelity's, with TensorFlow's weights of 2015).

    The protocol enlarges images to 299² as TensorFlow did, and is then bit for bit torch-fidelity's ``2048``; the
    published variants do as pytorch-fid does: bilinear with aligned centres, and pixels mapped to [−1, 1].

    Args:
        folder: where the weights are looked for first, see `find_weights`.
        device: where it runs.
        variant: whose preparation of images.

    Raises:
        UserError: see `find_weights`, or torch-fidelity is not installed.
    """

    def __init__(self, folder: Path | None, *, device: str | torch.device = "cpu", variant: Variant = PROTOCOL) -> None:
        self.file = find_weights(INCEPTION, folder)
        extractor = library("torch_fidelity.feature_extractor_inceptionv3", option="--features inception")
        resizing = library("torch_fidelity.interpolate_compat_tensorflow", option="--features inception")
        network = extractor.FeatureExtractorInceptionV3("fid", ["2048"], feature_extractor_weights_path=str(self.file))
        *layers, _ = network.children()  # the last one classifies
        self.body = nn.Sequential(*layers, nn.Flatten()).to(device).eval()
        self._enlarge = resizing.interpolate_bilinear_2d_like_tensorflow1x
        self._device, self._variant = device, variant

    @torch.no_grad()
    def features(self, images: Pixels) -> Tensor:
        """Features of images uint8 (n,S,S,3): (n,2048) float64 on the CPU. Each image passes once."""
        parts = [self.body(self._prepared(images[i : i + BATCH])) for i in range(0, len(images), BATCH)]
        return torch.cat(parts).double().cpu()

    def _prepared(self, images: Pixels) -> Tensor:
        x = torch.tensor(images, device=self._device).permute(0, 3, 1, 2).float()
        if self._variant.preparation == "published":
            return F.interpolate(x / 255, (SIZE, SIZE), mode="bilinear", align_corners=False) * 2 - 1
        enlarged: Tensor = self._enlarge(x, (SIZE, SIZE), align_corners=False)
        return (enlarged - 128) / 128
