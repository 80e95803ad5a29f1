import dataclasses
from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from ecgan_parts import CLASSES, config, labels, outlines
from torch import Tensor, nn
from torch.optim import Adam

from pyeqgan import backends
from pyeqgan.data.layouts import LayoutBatch
from pyeqgan.models import ECGAN
from pyeqgan.training.ecgan import LossWeights, discriminator_step, generate, generator_step, losses

WEIGHTS = LossWeights(similarity_stride=2)


def batch(size: int = 2, height: int = 16, width: int = 24, *, instances: bool = False) -> LayoutBatch:
    images = torch.rand(size, 3, height, width) * 2 - 1
    edges = torch.randint(2, (size, 1, height, width)).float() * 2 - 1
    shape = (size, height, width)
    return LayoutBatch(images, labels(*shape), edges, outlines(*shape) if instances else None)


def in_double(batch: LayoutBatch) -> LayoutBatch:
    tensors = {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch)}
    return LayoutBatch(**{n: t.double() if t is not None and t.is_floating_point() else t for n, t in tensors.items()})


def discriminate(model: ECGAN, batch: LayoutBatch, weights: LossWeights, **options: object) -> dict[str, Tensor]:
    output = generate(model.generator, batch)
    return discriminator_step(model.discriminator, model.segmenter, output, batch, weights=weights, **options)


def generator_learns(model: ECGAN, batch: LayoutBatch, weights: LossWeights, **options: object) -> dict[str, Tensor]:
    networks = (model.discriminator, model.segmenter, model.projection)
    output = generate(model.generator, batch)
    return generator_step(*networks, output, batch, weights=weights, **options)


def gradients(model: nn.Module, step: Callable[[], object]) -> dict[str, Tensor]:
    model.zero_grad()
    step()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def of(gradients: dict[str, Tensor], *networks: str) -> dict[str, Tensor]:
    return {name: g for name, g in gradients.items() if name.startswith(networks)}


@pytest.mark.parametrize("modules", ["image", "edge", "semantic"])
def test_discriminator_gradients_are_those_of_the_plain_form(modules):
    """Every map is judged alone, the real image once for each of its partners."""
    model, data = ECGAN(config(modules=modules)).double(), in_double(batch())
    model.discriminator.eval()  # its power iteration advances at each pass, and there are more in the plain form
    state = {k: v.clone() for k, v in model.state_dict().items()}
    given = gradients(model, lambda: discriminate(model, data, WEIGHTS))
    model.load_state_dict(state)

    def plain() -> None:
        output = generate(model.generator, data)
        real = {"edges": data.edges.expand(-1, 3, -1, -1), "images": data.images, "refined": data.images}
        total = 0
        for name, fake in output.modalities.items():
            weight = {"edges": 1, "images": 1, "refined": 2}[name]
            for map, sign in ((real[name], 1), (fake.detach(), -1)):
                for judgement in model.discriminator(data.labels, map[None]):
                    total = total + weight * (1 - sign * judgement.logits).relu().mean() / 2
        (total + losses.segmentation(model.segmenter(data.images), data.labels)).backward()

    expected = gradients(model, plain)
    assert not of(given, "generator", "projection")
    torch.testing.assert_close(given, expected)


@pytest.mark.parametrize("modules", ["image", "edge", "semantic"])
def test_generator_gradients_are_those_of_the_plain_form(modules):
    model, data = ECGAN(config(modules=modules)).double(), in_double(batch())
    model.discriminator.eval(), model.segmenter.eval()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    given = gradients(model, lambda: generator_learns(model, data, WEIGHTS))
    model.load_state_dict(state)

    def plain() -> None:
        output = generate(model.generator, data)
        real = {"edges": data.edges.expand(-1, 3, -1, -1), "images": data.images, "refined": data.images}
        total = losses.similarity(model.segmenter(output.final), data.labels, 2)
        total = total + 0.3 * losses.contrastive(model.projection(output.features), data.labels)
        for name, fake in output.modalities.items():
            weight = {"edges": 1, "images": 1, "refined": 2}[name]
            of_real, of_fake = (model.discriminator(data.labels, map[None]) for map in (real[name], fake))
            for r, f in zip(of_real, of_fake, strict=True):
                distances = [(a - b.detach()).abs().mean() for a, b in zip(f.features, r.features, strict=True)]
                total = total + weight * (10 * sum(distances) - f.logits.mean()) / 2
        total.backward()

    expected = of(gradients(model, plain), "generator", "projection")
    assert not of(given, "discriminator", "segmenter")
    torch.testing.assert_close(given, expected)


def test_the_generator_step_leaves_the_others_alone():
    model, data = ECGAN(config()), batch()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    generator_learns(model, data, WEIGHTS)
    after = model.state_dict()
    assert all(torch.equal(after[k], v) for k, v in before.items() if k.startswith(("discriminator", "segmenter")))
    assert all(p.requires_grad for p in model.parameters())
    assert model.discriminator.training and model.segmenter.training


def test_a_loss_of_weight_0_is_not_computed(monkeypatch):
    model, data = ECGAN(config()), batch()
    for name in ("feature_matching", "similarity", "contrastive", "segmentation"):
        monkeypatch.setattr(losses, name, lambda *_, **__: pytest.fail("computed"))
    none = LossWeights(feature_matching=0, similarity=0, contrastive=0)
    assert set(discriminate(model, data, none)) == {"hinge_real", "hinge_fake"}
    assert set(generator_learns(model, data, none)) == {"adversarial"}
    without = dataclasses.replace(none, contrastive=1.0, contrast="none")
    assert set(generator_learns(model, data, without)) == {"adversarial"}


def test_a_modality_of_weight_0_is_not_judged():
    model, data = ECGAN(config()), batch()
    judged = []
    model.discriminator.register_forward_pre_hook(lambda _, arguments: judged.append(len(arguments[1])))
    discriminate(model, data, WEIGHTS)
    generator_learns(model, data, WEIGHTS)
    assert judged == [2 + 3, 3, 2]
    judged.clear()
    weights = dataclasses.replace(WEIGHTS, edges=0, images=0)
    discriminate(model, data, weights)
    generator_learns(model, data, weights)
    assert judged == [1 + 1, 1, 1]


def test_weights_for_what_the_generator_does_not_make_are_an_error():
    model, data = ECGAN(config(modules="image")), batch()
    with pytest.raises(ValueError, match="expected a weight > 0 for one of images, got none"):
        discriminate(model, data, LossWeights(images=0))


@pytest.mark.parametrize(("contrast", "heads"), [("none", 0), ("single", 1), ("multi", 3)])
def test_contrast_reaches_the_heads_it_looks_at(contrast, heads):
    model, data = ECGAN(config()), batch()
    found = gradients(model, lambda: generator_learns(model, data, dataclasses.replace(WEIGHTS, contrast=contrast)))
    reached = {name.split(".")[2] for name in found if name.startswith("projection")}
    assert reached == set("210"[:heads])


def test_instance_edges_go_through_both_steps():
    model, data = ECGAN(config(instance_edges=True)), batch(instances=True)
    assert all(term.isfinite() for term in discriminate(model, data, WEIGHTS).values())
    assert all(term.isfinite() for term in generator_learns(model, data, WEIGHTS).values())


def test_hooks_see_every_forward_and_every_backward_pass():
    model, data = ECGAN(config()), batch()
    forwards, backwards = [], []

    def autocast():
        forwards.append(1)
        return nullcontext()

    def backward(loss: Tensor) -> None:
        backwards.append(loss)
        loss.backward()

    discriminate(model, data, WEIGHTS, autocast=autocast, backward=backward)
    assert (len(forwards), len(backwards)) == (2, 2)
    generator_learns(model, data, WEIGHTS, autocast=autocast, backward=backward)
    assert (len(forwards), len(backwards)) == (2 + 4, 2 + 1)


def test_bfloat16_autocast_keeps_losses_in_float32():
    model, data = ECGAN(config()), batch()
    options = {"autocast": lambda: torch.autocast("cpu", torch.bfloat16)}
    terms = {**discriminate(model, data, WEIGHTS, **options), **generator_learns(model, data, WEIGHTS, **options)}
    assert all(term.dtype == torch.float32 and term.isfinite() for term in terms.values())


def train(model: ECGAN, data: LayoutBatch, weights: LossWeights, steps: int) -> list[dict[str, float]]:
    """The losses of some steps on one batch."""
    players = (("discriminator", "segmenter"), ("generator", "projection"))
    optimizers = [
        Adam([p for name in names for p in getattr(model, name).parameters()], rate, (0.0, 0.9))
        for names, rate in zip(players, (4e-4, 1e-3), strict=True)
    ]
    curve = []
    for step in range(steps):
        rng = torch.Generator().manual_seed(step)
        output = generate(model.generator, data)
        optimizers[0].zero_grad()
        terms = discriminator_step(model.discriminator, model.segmenter, output, data, weights=weights)
        optimizers[0].step()
        optimizers[1].zero_grad()
        networks = (model.discriminator, model.segmenter, model.projection)
        terms |= generator_step(*networks, output, data, weights=weights, rng=rng)
        optimizers[1].step()
        curve.append({name: term.item() for name, term in terms.items()})
    return curve


def toy() -> LayoutBatch:
    """Classes with a colour each, in squares, and edges between them."""
    layout = torch.randint(CLASSES, (2, 4, 6)).repeat_interleave(4, 1).repeat_interleave(4, 2)
    images = (torch.rand(CLASSES, 3) * 2 - 1)[layout].permute(0, 3, 1, 2).contiguous()
    edges = torch.full((2, 1, 16, 24), -1.0)
    edges[..., 1:][layout[:, None, :, 1:] != layout[:, None, :, :-1]] = 1
    return LayoutBatch(images, layout, edges)


def test_thirty_steps_bring_the_generated_nearer_to_the_real():
    torch.manual_seed(0)
    data, model = toy(), ECGAN(config())
    first = {name: tensor.clone() for name, tensor in model.discriminator.state_dict().items()}

    def distances() -> tuple[float, float]:
        """From the real images, in the features of the discriminator as it was at first, and in the pixels."""
        now = {name: tensor.clone() for name, tensor in model.discriminator.state_dict().items()}
        model.discriminator.load_state_dict(first)
        with torch.no_grad():
            output = generate(model.generator, data)
            real, fake = (model.discriminator(data.labels, x[None]) for x in (data.images, output.final))
        model.discriminator.load_state_dict(now)
        features = ([j.features for j in real], [j.features for j in fake])
        return losses.feature_matching(*features, [0], [1.0]).item(), (output.final - data.images).abs().mean().item()

    before = distances()
    curve = train(model, data, WEIGHTS, 30)
    after = distances()
    assert after[0] < 0.8 * before[0]
    assert after[1] < 0.8 * before[1]
    assert curve[-1]["segmentation"] < 0.8 * curve[0]["segmentation"]


def test_kernels_and_reference_give_the_same_curve():
    data, model = toy(), ECGAN(config())
    state = {k: v.clone() for k, v in model.state_dict().items()}
    fused = train(model, data, WEIGHTS, 10)
    model.load_state_dict(state)
    with backends.force("reference"):
        reference = train(model, data, WEIGHTS, 10)
    for step, (ours, theirs) in enumerate(zip(fused, reference, strict=True)):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-5), step
