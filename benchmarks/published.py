"""The training step as published code writes it: PyTorch's own layers, every term by itself, nothing shared.

What our step is measured against, and held to by the tests. The networks are ours, with their weights; within
`layers` they compute by PyTorch's operations, which autograd records one by one and torch.compile can see.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor

from pyeqgan import functional, reference
from pyeqgan.benchmarks import baselines
from pyeqgan.models import FusionPlan
from pyeqgan.models.eqgan import discriminator as discriminator_file
from pyeqgan.models.eqgan import fusion as fusion_file
from pyeqgan.training.eqgan import LossWeights, losses

Network = Callable[..., Any]


def discriminator_step(
    generator: Network,
    discriminator: Network,
    images: Tensor,
    labels: Tensor,
    weights: LossWeights,
    plan: FusionPlan | None = None,
    *,
    twice: Network | None = None,
) -> dict[str, Tensor]:
    """Hinge, penalty and class loss of the reals each go back alone, then the fakes; returns the unweighted losses.

    Args:
        generator: images to a `GeneratorOutput`.
        discriminator: images to logits and class logits.
        images: (B,K,3,S,S).
        labels: (B,) int64.
        weights: what is minimised; the penalty at every step.
        plan: the generator's random choices.
        twice: the discriminator where it is differentiated twice, if that is another than `discriminator`.
    """
    batch, shots = images.shape[:2]
    labels = labels.repeat_interleave(shots)
    reals = images.flatten(0, 1).clone().requires_grad_()
    judge = discriminator if twice is None or weights.penalty == "none" else twice
    logit, class_logits = judge(reals)
    terms = {"hinge_real": F.relu(1 - logit).mean()}
    terms["hinge_real"].backward(retain_graph=True)
    if weights.penalty != "none":
        if weights.penalty == "class":
            index = torch.arange(batch * shots)
            (gradient,) = torch.autograd.grad(class_logits[index, labels].mean(), reals, create_graph=True)
            terms["penalty"] = gradient.pow(2).sum() / batch
        else:
            (gradient,) = torch.autograd.grad(logit.sum(), reals, create_graph=True)
            terms["penalty"] = gradient.pow(2).sum((1, 2, 3)).mean()
        (weights.penalty_weight * terms["penalty"]).backward(retain_graph=True)
    terms["classification"] = F.cross_entropy(class_logits, labels)
    (weights.classification * terms["classification"]).backward()
    with torch.no_grad():
        fakes = generator(images, plan=plan).images
    logit, _ = discriminator(fakes)
    terms["hinge_fake"] = F.relu(1 + logit).mean()
    terms["hinge_fake"].backward()
    return {name: term.detach() for name, term in terms.items()}


def generator_step(
    generator: Network,
    discriminator: Network,
    images: Tensor,
    labels: Tensor,
    weights: LossWeights,
    plan: FusionPlan | None = None,
) -> dict[str, Tensor]:
    """The reals are judged, too, and nothing is frozen; returns the unweighted losses. Arguments as above."""
    output = generator(images, plan=plan)
    discriminator(images.flatten(0, 1))
    logit, class_logits = discriminator(output.images)
    terms = {"adversarial": -logit.mean(), "classification": F.cross_entropy(class_logits, labels)}
    loss = terms["adversarial"] + weights.classification * terms["classification"]
    if weights.reconstruction:
        terms["reconstruction"] = losses.local_reconstruction(images, output)
        loss = loss + weights.reconstruction * terms["reconstruction"]
    if weights.consistency:
        terms["consistency"] = losses.consistent_equalization(output)
        loss = loss + weights.consistency * terms["consistency"]
    loss.backward()
    return {name: term.detach() for name, term in terms.items()}


@contextmanager
def layers(*, compiled: bool = False) -> Iterator[None]:
    """Within: EqGAN's networks and losses compute by PyTorch's own operations, each of these compiled if asked.

    Not the networks whole: inductor had not compiled the smallest generator after half an hour.
    """
    operations = (
        (functional, "activated_conv2d", _activated_conv2d),
        (functional, "skip_decoder_block", _skip_decoder_block),
        (functional, "equalization_fusion", _equalization_fusion),
        (fusion_file, "local_fusion", _local_fusion),
        (fusion_file, "lifted_fusion", reference.lifted_fusion),
        (losses, "equalization_consistency_loss", baselines.equalization_consistency_loss),
        (discriminator_file._ResidualBlock, "forward", _residual_block),
    )
    with ExitStack() as patches:
        for owner, name, operation in operations:
            patches.enter_context(patch.object(owner, name, _compiled(operation) if compiled else operation))
        yield


@cache
def _compiled(operation: Callable[..., Any]) -> Callable[..., Any]:
    torch._dynamo.config.recompile_limit = 64  # an operation is called with as many shapes
    function: Callable[..., Any] = torch.compile(operation, dynamic=False)
    return function


def compiled(network: Network) -> Network:
    """The network with its operations compiled, wherever else it is called without."""

    def run(*arguments: Any, **options: Any) -> Any:
        with layers(compiled=True):
            return network(*arguments, **options)

    return run


def _residual_block(block: Any, x: Tensor) -> Tensor:
    y = block.shortcut(x) + block.convolution2(block.convolution1(x))
    if isinstance(block.pool, torch.nn.Identity):
        return y
    return F.avg_pool2d(F.pad(y, (1, 1, 1, 1), mode="reflect"), 3, stride=2)


def _activated_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, **options: Any) -> Tensor:
    _expect(options, activation="leaky_relu", negative_slope=0.2, padding=1, padding_mode="reflect")
    return F.conv2d(F.pad(F.leaky_relu(x, 0.2), (1, 1, 1, 1), mode="reflect"), weight, bias)


def _skip_decoder_block(
    x: Tensor,
    skip: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    *,
    training: bool,
    norm_weight: Tensor,
    norm_bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    **options: Any,
) -> Tensor:
    _expect(options, norm="batch", activation="leaky_relu", negative_slope=0.2)
    joined = F.interpolate(x if skip is None else torch.cat([x, skip], 1), scale_factor=2.0)
    y = F.conv2d(F.pad(joined, (1, 1, 1, 1), mode="reflect"), weight, bias)
    return F.leaky_relu(F.batch_norm(y, running_mean, running_var, norm_weight, norm_bias, training), 0.2)


def _equalization_fusion(
    structure: Tensor, texture: Tensor, *weights: Tensor, detail: Tensor | None, training: bool, **options: Any
) -> Tensor:
    _expect(options, norm="instance", sigma=1.5)
    inputs = texture if detail is None else torch.cat([texture, detail], 1)
    return baselines.equalization_fusion(structure, inputs, *weights)


def _local_fusion(base: Tensor, references: Tensor, weights: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    matches = baselines.find_matches(base, references, positions)
    return baselines.fuse_matches(base, references, weights, positions, matches), matches


def _expect(given: dict[str, Any], **expected: Any) -> None:
    """These forms are EqGAN's only."""
    if given != expected:
        raise NotImplementedError(f"the published form: expected {expected}, got {given}")
