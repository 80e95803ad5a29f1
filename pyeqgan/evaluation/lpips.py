"""LPIPS of all pairs of images of a class, each image passing the network once."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from pyeqgan.data.images import Pixels
from pyeqgan.evaluation.libraries import library, library_folder
from pyeqgan.evaluation.variants import PROTOCOL, Variant, reduce_for_lpips
from pyeqgan.evaluation.weights import BACKBONES, check_weights, find_weights
from pyeqgan.options.evaluate import Backbone

SIZE = 32
BATCH = 128
# The rectifications whose outputs are compared, and the checksums of the weights that torchmetrics ships for them.
TAPS = {"vgg": (3, 8, 15, 22, 29), "alex": (1, 4, 7, 9, 11)}
HEADS = {"vgg": "a78928a0", "alex": "df73285e"}
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
EPSILON = 1e-8


class LPIPS:
    """Learned perceptual image patch similarity (Zhang et al. 2018, arXiv 1801.03924, version 0.1) at 32².

    Its distance of two images is ``Σ_l 1/(H_l W_l) Σ_hw Σ_c w_lc (y_lhwc − y'_lhwc)²`` with feature maps y of unit
    length along the channels (equation 1), and weights ``w ≥ 0``. That is the squared Euclidean distance between the
    vectors of all ``(w_lc / (H_l W_l))^½ y_lhwc``: `embed` makes one vector an image, of which all pairs follow
    without the network. The networks are torchvision's, the weights w are those that come with torchmetrics, and so
    is the ε under the root of the length.

    Args:
        backbone: "vgg" (what papers on few-shot generation report) or "alex".
        folder: where the backbone's weights are looked for first, see `find_weights`.
        device: where it runs.
        variant: whose preparation of images.

    Raises:
        UserError: see `find_weights`, or torchmetrics or torchvision is not installed.
    """

    def __init__(
        self,
        backbone: Backbone,
        folder: Path | None,
        *,
        device: str | torch.device = "cpu",
        variant: Variant = PROTOCOL,
    ) -> None:
        network, self.file = load_backbone(backbone, folder, option="--lpips")
        self.layers = nn.Sequential(*list(network)[: TAPS[backbone][-1] + 1]).to(device).eval()
        self._taps = TAPS[backbone]
        shipped = library_folder("torchmetrics", option="--lpips") / "functional/image/lpips_models" / f"{backbone}.pth"
        check_weights(shipped, HEADS[backbone])
        heads = torch.load(shipped, map_location=device, weights_only=True)
        self._roots = [heads[f"lin{i}.model.1.weight"].sqrt() for i in range(len(self._taps))]
        self._device, self._variant = device, variant

    @torch.no_grad()
    def embed(self, images: Pixels) -> Tensor:
        """Images uint8 (n,S,S,3) as vectors (n,D) float32 on the CPU whose squared distances are LPIPS."""
        x = reduce_for_lpips(images, self._variant, SIZE)
        return torch.cat([self._embed(part.to(self._device)).cpu() for part in x.split(BATCH)])

    def _embed(self, x: Tensor) -> Tensor:
        shift, scale = (x.new_tensor(values)[:, None, None] for values in (SHIFT, SCALE))
        x = (x - shift) / scale
        maps = []
        for index, layer in enumerate(self.layers):
            x = layer(x)
            if index in self._taps:
                maps.append(x.clone())  # the next layer may work in place
        return torch.cat([_vectors(y, root) for y, root in zip(maps, self._roots, strict=True)], 1)


def load_backbone(backbone: Backbone, folder: Path | None, *, option: str) -> tuple[nn.Sequential, Path]:
    """The convolutional layers of torchvision's VGG-16 or AlexNet with its published weights, and their file.

    Raises:
        UserError: see `find_weights`, or torchvision, which ``option`` of the command line needs, is not installed.
    """
    file = find_weights(BACKBONES[backbone], folder)
    models = library("torchvision.models", option=option)
    with torch.device("meta"):  # the published weights take the place of any initial ones
        network: nn.Sequential = {"vgg": models.vgg16, "alex": models.alexnet}[backbone]().features
    state = torch.load(file, map_location="cpu", weights_only=True)
    own = {name.removeprefix("features."): w for name, w in state.items() if name.startswith("features.")}
    network.load_state_dict(own, assign=True)
    return network, file


def mean_lpips(embeddings: Tensor) -> float:
    """Mean LPIPS over all n(n−1)/2 pairs of rows of (n,D), n >= 2: twice the total variance, for squared distances.

    Raises:
        ValueError: fewer than two rows, or another shape.
    """
    if embeddings.dim() != 2 or len(embeddings) < 2:
        raise ValueError(f"mean_lpips: embeddings: expected shape (2 or more, D), got {tuple(embeddings.shape)}")
    return 2 * float(embeddings.double().var(0).sum())


def _vectors(maps: Tensor, root: Tensor) -> Tensor:
    """One layer's share of the vectors: maps (n,C,H,W), root (1,C,1,1) of the weights; (n,C·H·W)."""
    length = (maps.square().sum(1, keepdim=True) + EPSILON).sqrt()
    vectors: Tensor = maps / length * root / (maps.shape[2] * maps.shape[3]) ** 0.5
    return vectors.flatten(1)
