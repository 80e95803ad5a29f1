"""EqGAN's losses, each a function of tensors, and their weights.

Hinge, cross entropy, gradient penalty and local reconstruction are LoFGAN's (ICCV 2021), with its weights;
the consistent equalization loss is EqGAN's (arXiv 2307.14638). All are computed in at least float32.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from pyeqgan.functional import equalization_consistency_loss
from pyeqgan.models.eqgan.fusion import Fusion, FusionPlan
from pyeqgan.models.eqgan.generator import GeneratorOutput

Penalty = Literal["class", "adversarial", "none"]


@dataclass(frozen=True)
class LossWeights:
    """Which losses are minimised, and how much each counts.

    Attributes:
        classification: weight of both networks' cross entropy.
        penalty: "class" (LoFGAN: on the class logit), "adversarial" (R1, on the adversarial logit) or "none".
        penalty_weight: weight of the penalty.
        penalty_every: compute the penalty every that many steps, with its weight times as much (lazy
            regularisation, StyleGAN2); >= 1.
        reconstruction: weight of the local reconstruction.
        consistency: weight λ_eq of the consistent equalization loss (the value is ours).
        mode_seeking: weight of the mode seeking loss (ours); 0 spares its second generator pass.

    Raises:
        ValueError: a weight is negative or not finite, ``penalty`` unknown, or ``penalty_every`` below 1.
    """

    classification: float = 1.0
    penalty: Penalty = "class"
    penalty_weight: float = 10.0
    penalty_every: int = 1
    reconstruction: float = 0.5
    consistency: float = 1.0
    mode_seeking: float = 0.0

    def __post_init__(self) -> None:
        for name in ("classification", "penalty_weight", "reconstruction", "consistency", "mode_seeking"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"LossWeights: {name}: expected a finite number >= 0, got {value}")
        if self.penalty not in get_args(Penalty):
            known = " or ".join(map(repr, get_args(Penalty)))
            raise ValueError(f"LossWeights: penalty: expected {known}, got {self.penalty!r}")
        if self.penalty_every < 1:
            raise ValueError(f"LossWeights: penalty_every: expected an integer >= 1, got {self.penalty_every}")

    def penalty_at(self, step: int) -> float:
        """The weight of the penalty at a training step; 0 when it is not computed there."""
        if self.penalty == "none" or step % self.penalty_every:
            return 0.0
        return self.penalty_weight * self.penalty_every


def hinge_real(logit: Tensor) -> Tensor:
    """The discriminator's hinge loss on real images: mean max(0, 1 - logit) of logits (N,)."""
    return F.relu(1 - _precise(logit)).mean()


def hinge_fake(logit: Tensor) -> Tensor:
    """The discriminator's hinge loss on generated images: mean max(0, 1 + logit) of logits (N,)."""
    return F.relu(1 + _precise(logit)).mean()


def adversarial(logit: Tensor) -> Tensor:
    """The generator's side of the hinge loss: minus the mean of the logits (N,)."""
    return -_precise(logit).mean()


def classification(class_logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross entropy of class logits (N,n) and labels (N,) int64."""
    return F.cross_entropy(_precise(class_logits), labels)


def class_penalty(class_logits: Tensor, labels: Tensor, images: Tensor, episodes: int, *, processes: int = 1) -> Tensor:
    """LoFGAN's gradient penalty: (1/B)·‖∇_x mean_n logit_n[label_n]‖², the mean over all N = B·K images.

    Because of the inner mean it shrinks with N; that is the published form.

    Args:
        class_logits: (N,n) of ``images``.
        labels: (N,) int64.
        images: (N,3,S,S), requiring gradients, from which the logits were computed.
        episodes: B, the number of K-shot rows the images come from.
        processes: how many processes hold as many images of the batch; the inner mean is that of all, so that the
            mean of their penalties is the penalty of the batch.
    """
    true_class = class_logits.gather(1, labels[:, None])
    return _squared_gradient(_precise(true_class).mean() / processes, images) / episodes


def adversarial_penalty(logit: Tensor, images: Tensor) -> Tensor:
    """R1 (Mescheder et al., 2018) without its factor 1/2: the mean over images of ‖∇_x logit‖².

    Args:
        logit: (N,) of ``images``.
        images: (N,3,S,S), requiring gradients, from which the logits were computed.
    """
    return _squared_gradient(_precise(logit).sum(), images) / images.shape[0]


def local_reconstruction(images: Tensor, output: GeneratorOutput) -> Tensor:
    """Mean absolute difference between generated images and the same fusion of the given ones (LoFGAN).

    The fusion is that of the bottleneck: its positions and matches, lifted from that grid to the pixels.

    Args:
        images: (B,K,3,S,S), what the generator was given.
        output: what it returned.
    """
    plan = output.plan
    with torch.no_grad():
        bottleneck = output.decoded[0].shape[-1] // 2
        target = Fusion(plan, output.matches).lift(plan.base_first(images), bottleneck)
    return F.l1_loss(_precise(output.images), _precise(target))


def consistent_equalization(output: GeneratorOutput) -> Tensor:
    """EqGAN's consistency of the equalized features E_s with the decoded ones d_s, over all scales."""
    return equalization_consistency_loss(output.equalized, output.decoded)


def mode_seeking(
    first: Tensor, second: Tensor, first_plan: FusionPlan, second_plan: FusionPlan, *, eps: float = 1e-5
) -> Tensor:
    """Mode seeking loss (Mao et al., CVPR 2019): mean |z₁ - z₂| / (|x₁ - x₂| + eps), here with z = α (ours).

    It is small where two plans give different images.

    Args:
        first: (B,3,S,S) generated from the same images by ``first_plan``.
        second: (B,3,S,S) generated by ``second_plan``.
        first_plan: its shares α (B,K) are the latent code z.
        second_plan: likewise.
        eps: keeps the ratio finite.
    """
    image_distance = (_precise(first) - _precise(second)).abs().mean((1, 2, 3))
    code_distance = (first_plan.weights - second_plan.weights).abs().mean(1)
    return (code_distance / (image_distance + eps)).mean()


def _squared_gradient(scalar: Tensor, images: Tensor) -> Tensor:
    (gradient,) = torch.autograd.grad(scalar, images, create_graph=True)
    return _precise(gradient).square().sum()


def _precise(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
