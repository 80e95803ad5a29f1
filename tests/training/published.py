"""A training step in the straightforward form of published code: every term by itself, nothing shared."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyeqgan.models import FusionPlan
from pyeqgan.training import LossWeights, losses


def discriminator_step(
    generator: nn.Module,
    discriminator: nn.Module,
    images: Tensor,
    labels: Tensor,
    weights: LossWeights,
    plan: FusionPlan | None = None,
) -> None:
    batch, shots = images.shape[:2]
    labels = labels.repeat_interleave(shots)
    reals = images.flatten(0, 1).clone().requires_grad_()
    logit, class_logits = discriminator(reals)
    F.relu(1 - logit).mean().backward(retain_graph=True)
    if weights.penalty != "none":
        if weights.penalty == "class":
            index = torch.arange(batch * shots)
            (gradient,) = torch.autograd.grad(class_logits[index, labels].mean(), reals, create_graph=True)
            penalty = gradient.pow(2).sum() / batch
        else:
            (gradient,) = torch.autograd.grad(logit.sum(), reals, create_graph=True)
            penalty = gradient.pow(2).sum((1, 2, 3)).mean()
        (weights.penalty_weight * penalty).backward(retain_graph=True)
    (weights.classification * F.cross_entropy(class_logits, labels)).backward()
    with torch.no_grad():
        fakes = generator(images, plan=plan).images
    logit, _ = discriminator(fakes)
    F.relu(1 + logit).mean().backward()


def generator_step(
    generator: nn.Module,
    discriminator: nn.Module,
    images: Tensor,
    labels: Tensor,
    weights: LossWeights,
    plan: FusionPlan | None = None,
) -> None:
    output = generator(images, plan=plan)
    discriminator(images.flatten(0, 1))
    logit, class_logits = discriminator(output.images)
    loss = -logit.mean() + weights.classification * F.cross_entropy(class_logits, labels)
    if weights.reconstruction:
        loss = loss + weights.reconstruction * losses.local_reconstruction(images, output)
    if weights.consistency:
        loss = loss + weights.consistency * losses.consistent_equalization(output)
    loss.backward()
