"""One training step of each network: its losses, each term computed once, and their backward passes.

Cost, in passes of one image through the discriminator, where forward, the gradient to the input and that to
the weights count one each; B = 8 episodes of K = 3 images, with the penalty:

=====================================================  =======  =========
term                                                   here     published
=====================================================  =======  =========
D: 24 reals forward                                    24       24
D: hinge and class loss back, in one or two backwards  48       96
D: the penalty's gradient, and the gradient of that    24 + 48  24 + 48*
D: 8 fakes forward and back                            24       24
G: 24 reals forward, used by nothing                   0        24
G: 8 fakes forward, back to the pixels (and weights)   16       24
=====================================================  =======  =========

Together 184 instead of 264, for the same gradients.

* Going back alone, the penalty also drives the zero second derivative of the leaky ReLU back through the forward
  pass, which torch does not skip: 48 more, 312 in all. Here it joins the one backward of hinge and class loss.

With Lightning Fabric in mixed precision, pass the plain modules and ``fabric.autocast``: Fabric's wrappers refuse
the gradient of the penalty, which is not taken by ``fabric.backward``.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.profiler import record_function

from pyeqgan.models.eqgan.fusion import FusionPlan
from pyeqgan.training.eqgan import losses
from pyeqgan.training.eqgan.losses import LossWeights
from pyeqgan.training.system import Autocast, Backward, frozen


def discriminator_step(
    generator: nn.Module,
    discriminator: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    weights: LossWeights,
    step: int = 0,
    processes: int = 1,
    plan: FusionPlan | None = None,
    rng: torch.Generator | None = None,
    backward: Backward = Tensor.backward,
    autocast: Autocast = nullcontext,
) -> dict[str, Tensor]:
    """Compute the discriminator's losses and add their gradients to its parameters.

    The caller zeroes the gradients before and steps the optimiser after.

    Args:
        generator: makes the fakes, without gradients; in training mode its batch norm statistics advance.
        discriminator: images (N,3,S,S) to logits (N,) and class logits (N,n).
        images: (B,K,3,S,S) in [-1, 1], K images of one class per row.
        labels: (B,) int64, the rows' classes.
        weights: what is minimised.
        step: number of this training step, from 0; says whether the lazy penalty is due.
        processes: how many processes take this step, each with as many rows of one batch.
        plan: the generator's random choices; drawn if None.
        rng: source of randomness of a drawn plan.
        backward: called on each scalar loss; Fabric's in the engine.
        autocast: makes the context of each forward pass, and of nothing else; Fabric's in the engine.

    Returns:
        The unweighted losses, detached: "hinge_real", "hinge_fake", "classification", and "penalty" when due.
    """
    with record_function("discriminator: fakes"), torch.no_grad(), autocast():
        fakes = generator(images, plan=plan, generator=rng).images

    # Real and fake go back separately: each graph is freed before the next is built.
    episodes, shots = images.shape[:2]
    real_labels = labels.repeat_interleave(shots)
    penalty_weight = weights.penalty_at(step)
    reals = images.detach().flatten(0, 1).requires_grad_(penalty_weight > 0)
    with record_function("discriminator: forward"), autocast():
        logit, class_logits = discriminator(reals)
    terms = {
        "hinge_real": losses.hinge_real(logit),
        "classification": losses.classification(class_logits, real_labels),
    }
    total = terms["hinge_real"] + weights.classification * terms["classification"]
    if penalty_weight > 0:
        with record_function("discriminator: penalty"):
            if weights.penalty == "class":
                terms["penalty"] = losses.class_penalty(class_logits, real_labels, reals, episodes, processes=processes)
            else:
                terms["penalty"] = losses.adversarial_penalty(logit, reals)
        total = total + penalty_weight * terms["penalty"]
    with record_function("discriminator: backward" + (", second order" if penalty_weight > 0 else "")):
        backward(total)

    with record_function("discriminator: forward"), autocast():
        logit, _ = discriminator(fakes)
    terms["hinge_fake"] = losses.hinge_fake(logit)
    with record_function("discriminator: backward"):
        backward(terms["hinge_fake"])
    return {name: term.detach() for name, term in terms.items()}


def generator_step(
    generator: nn.Module,
    discriminator: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    weights: LossWeights,
    plan: FusionPlan | None = None,
    other_plan: FusionPlan | None = None,
    rng: torch.Generator | None = None,
    backward: Backward = Tensor.backward,
    autocast: Autocast = nullcontext,
) -> dict[str, Tensor]:
    """Compute the generator's losses and add their gradients to its parameters.

    The discriminator stays as it is: no gradient, no step of spectral norm's power iteration.

    Args:
        generator: images to :class:`~pyeqgan.models.GeneratorOutput`.
        discriminator: images (N,3,S,S) to logits (N,) and class logits (N,n).
        images: (B,K,3,S,S) in [-1, 1], K images of one class per row.
        labels: (B,) int64, the rows' classes.
        weights: what is minimised; a term of weight 0 is not computed.
        plan: the generator's random choices; drawn if None.
        other_plan: likewise, of the second image that mode seeking compares with.
        rng: source of randomness of a drawn plan.
        backward: called once on the scalar total; Fabric's in the engine.
        autocast: makes the context of each forward pass, and of nothing else; Fabric's in the engine.

    Returns:
        The unweighted losses, detached: "adversarial" and those of "classification", "reconstruction",
        "consistency" and "mode_seeking" that have a weight.
    """
    with frozen(discriminator):
        with record_function("generator: forward"), autocast():
            output = generator(images, plan=plan, generator=rng)
            logit, class_logits = discriminator(output.images)
        terms = {"adversarial": losses.adversarial(logit)}
        if weights.classification:
            terms["classification"] = losses.classification(class_logits, labels)
        if weights.reconstruction:
            terms["reconstruction"] = losses.local_reconstruction(images, output)
        if weights.consistency:
            terms["consistency"] = losses.consistent_equalization(output)
        if weights.mode_seeking:
            with record_function("generator: forward"), autocast():
                other = generator(images, plan=other_plan, generator=rng)
            terms["mode_seeking"] = losses.mode_seeking(output.images, other.images, output.plan, other.plan)
        weighted = [getattr(weights, name) * term for name, term in terms.items() if name != "adversarial"]
        with record_function("generator: backward"):
            backward(sum(weighted, start=terms["adversarial"]))
    return {name: term.detach() for name, term in terms.items()}
