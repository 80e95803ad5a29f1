"""One training step of ECGAN's networks: its losses, each term computed once, and their backward passes.

The generator runs once a step, as in pix2pixHD: :func:`generate` keeps its graph, the discriminator learns from the
detached maps, and then the generator through the discriminator that has learned.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.profiler import record_function

from pyeqgan.models.ecgan import ECGANOutput, Judgement
from pyeqgan.training.ecgan import losses
from pyeqgan.training.ecgan.losses import LossWeights
from pyeqgan.training.system import Autocast, Backward, frozen

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

    from pyeqgan.data.layouts import LayoutBatch

# What each generated modality is told from and compared with.
PARTNERS = {"edges": "edges", "images": "images", "refined": "images"}


def generate(generator: nn.Module, batch: LayoutBatch, *, autocast: Autocast = nullcontext) -> ECGANOutput:
    """What the generator makes of a batch's layouts, with its graph, for both steps below."""
    with record_function("generator: forward"), autocast():
        output: ECGANOutput = generator(batch.labels, batch.instance_edges)
    return output


def discriminator_step(
    discriminator: nn.Module,
    segmenter: nn.Module,
    output: ECGANOutput,
    batch: LayoutBatch,
    *,
    weights: LossWeights,
    group: ProcessGroup | None = None,
    backward: Backward = Tensor.backward,
    autocast: Autocast = nullcontext,
) -> dict[str, Tensor]:
    """Compute the losses of discriminator and segmenter and add their gradients to the parameters.

    The caller zeroes the gradients before and steps the optimisers after. Real and generated maps are judged in one
    pass, as in SPADE.

    Args:
        discriminator: labels (B,H,W), maps (M,B,3,H,W) and instance edges to judgements.
        segmenter: images (B,3,H,W) to class logits (B,N_c,H,W); learns only if the similarity loss has a weight.
        output: of :func:`generate`; gets no gradient here.
        batch: real images and edges, and the layouts that the output was made from.
        weights: what is minimised.
        group: of the processes that take this step, each with as many rows of one batch; None for one process.
        backward: called on each scalar loss; Fabric's in the engine.
        autocast: makes the context of each forward pass, and of nothing else; Fabric's in the engine.

    Returns:
        The unweighted losses (but for the modalities' weights), detached: "hinge_real", "hinge_fake", and
        "segmentation" if computed.
    """
    fakes = _judged(output, weights)
    reals = _real(batch, fakes)
    maps = torch.stack([*reals.values(), *(fake.detach() for fake in fakes.values())])
    with record_function("discriminator: forward"), autocast():
        judgements = discriminator(batch.labels, maps, batch.instance_edges)
    of_reals = [sum(weights.of([name for name in fakes if PARTNERS[name] == real])) for real in reals]
    count = len(reals)
    terms = {
        "hinge_real": losses.hinge_real([j.logits[:count] for j in judgements], of_reals),
        "hinge_fake": losses.hinge_fake([j.logits[count:] for j in judgements], weights.of(list(fakes))),
    }
    with record_function("discriminator: backward"):
        backward(terms["hinge_real"] + terms["hinge_fake"])
    if weights.similarity:
        with record_function("segmenter: forward"), autocast():
            class_logits = segmenter(batch.images)
        terms["segmentation"] = losses.segmentation(class_logits, batch.labels, group=group)
        with record_function("segmenter: backward"):
            backward(terms["segmentation"])
    return {name: term.detach() for name, term in terms.items()}


def generator_step(
    discriminator: nn.Module,
    segmenter: nn.Module,
    projection: nn.Module,
    output: ECGANOutput,
    batch: LayoutBatch,
    *,
    weights: LossWeights,
    perceptual: nn.Module | None = None,
    rng: torch.Generator | None = None,
    group: ProcessGroup | None = None,
    backward: Backward = Tensor.backward,
    autocast: Autocast = nullcontext,
) -> dict[str, Tensor]:
    """Compute the losses of generator and projection and add their gradients to the parameters.

    Discriminator and segmenter stay as they are: no gradient, no step of a power iteration or of running statistics.

    Args:
        discriminator, segmenter, batch, weights, group, autocast: as for :func:`discriminator_step`.
        projection: the generator's features to vectors; learns only if the contrastive loss is computed.
        output: of :func:`generate`, whose graph this frees.
        perceptual: generated and real images to their distance; needed if it has a weight.
        rng: of the pixels that contrast, on any device, in one state in all processes; torch's default if None.
        backward: called once on the scalar total; Fabric's in the engine.

    Returns:
        The unweighted losses (but for the modalities' weights), detached: "adversarial" and those of
        "feature_matching", "perceptual", "similarity" and "contrastive" that are computed.

    Raises:
        ValueError: no modality of the output has a weight, or the perceptual distance has one and is not given.
    """
    fakes = _judged(output, weights)
    of_fakes = weights.of(list(fakes))
    with frozen(discriminator, segmenter):
        with record_function("generator: judged"), autocast():
            judged: list[Judgement] = discriminator(
                batch.labels, torch.stack(list(fakes.values())), batch.instance_edges
            )
        terms = {"adversarial": losses.adversarial([j.logits for j in judged], of_fakes)}
        if weights.feature_matching:
            reals = _real(batch, fakes)
            with record_function("generator: real features"), torch.no_grad(), autocast():
                real: list[Judgement] = discriminator(
                    batch.labels, torch.stack(list(reals.values())), batch.instance_edges
                )
            partners = [list(reals).index(PARTNERS[name]) for name in fakes]
            features = ([j.features for j in real], [j.features for j in judged])
            terms["feature_matching"] = losses.feature_matching(*features, partners, of_fakes)
        if weights.perceptual:
            if perceptual is None:
                raise ValueError("generator_step: perceptual: expected a network, as the loss has a weight, got None")
            with record_function("generator: perceptual"), autocast():
                distances = [
                    weight * perceptual(fake, batch.images)
                    for (name, fake), weight in zip(fakes.items(), of_fakes, strict=True)
                    if name != "edges"
                ]
            terms["perceptual"] = torch.stack(distances).sum()
        if weights.similarity:
            with record_function("generator: similarity"), autocast():
                class_logits = segmenter(output.final)
            terms["similarity"] = losses.similarity(class_logits, batch.labels, weights.similarity_stride, group=group)
        if weights.contrastive and weights.contrast != "none":
            with record_function("generator: contrast"):
                with autocast():
                    vectors = projection(output.features[-1:] if weights.contrast == "single" else output.features)
                terms["contrastive"] = losses.contrastive(
                    vectors,
                    batch.labels,
                    max_pixels=weights.contrast_pixels,
                    rows_per_image=weights.contrast_rows,
                    generator=_at(rng, batch.labels.device),
                    group=group,
                )
        weighted = [getattr(weights, name) * term for name, term in terms.items() if name != "adversarial"]
        with record_function("generator: backward"):
            backward(sum(weighted, start=terms["adversarial"]))
    return {name: term.detach() for name, term in terms.items()}


def _judged(output: ECGANOutput, weights: LossWeights) -> dict[str, Tensor]:
    """The modalities that the generator makes and that have a weight."""
    judged = {name: map for name, map in output.modalities.items() if getattr(weights, name)}
    if not judged:
        raise ValueError(f"expected a weight > 0 for one of {', '.join(output.modalities)}, got none")
    return judged


def _real(batch: LayoutBatch, fakes: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The real partners of some generated maps, (B,3,H,W) each, every one once."""
    maps = {"edges": batch.edges.expand_as(batch.images), "images": batch.images}
    wanted = {PARTNERS[name] for name in fakes}
    return {name: map for name, map in maps.items() if name in wanted}


def _at(rng: torch.Generator | None, device: torch.device) -> torch.Generator | None:
    """A source of randomness on a device, drawn from one of another."""
    if rng is None or rng.device.type == device.type:
        return rng
    (seed,) = torch.randint(2**62, (1,), generator=rng, device=rng.device).tolist()
    return torch.Generator(device).manual_seed(seed)
