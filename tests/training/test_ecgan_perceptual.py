import pytest
import torch
from ecgan_parts import config, labels
from published_weights import accept, write_backbone

from pyeqgan.data.layouts import LayoutBatch
from pyeqgan.errors import UserError
from pyeqgan.models import ECGAN
from pyeqgan.training.ecgan import LossWeights, generate, generator_step
from pyeqgan.training.ecgan.perceptual import PerceptualDistance


def test_it_is_the_distance_at_the_first_layer_of_each_stage(tmp_path, monkeypatch):
    network = write_backbone(tmp_path, "vgg")
    accept(tmp_path, monkeypatch)
    distance = PerceptualDistance(tmp_path)
    x, y = (torch.rand(2, 3, 32, 32, requires_grad=True) for _ in range(2))
    mean, std = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    expected = 0
    for layer, weight in ((1, 1 / 32), (6, 1 / 16), (11, 1 / 8), (18, 1 / 4), (25, 1)):
        a, b = (network[: layer + 1]((images - mean) / std) for images in (x, y))
        expected = expected + weight * (a - b).abs().mean()
    given = distance(2 * x - 1, 2 * y - 1)
    torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-5)
    given.backward()
    assert x.grad.abs().max() > 0 and y.grad is None
    assert all(not p.requires_grad for p in distance.parameters())


def test_without_weights_it_says_what_it_looked_for(tmp_path):
    with pytest.raises(UserError, match=r"no weights of LPIPS's VGG-16: expected vgg16-397923af.pth in"):
        PerceptualDistance(tmp_path)


def test_it_joins_the_generators_losses_for_images_but_not_for_edges():
    model = ECGAN(config())
    batch = LayoutBatch(torch.rand(2, 3, 16, 24), labels(), torch.ones(2, 1, 16, 24))
    networks = (model.discriminator, model.segmenter, model.projection)
    output, weights = generate(model.generator, batch), LossWeights(perceptual=10)
    seen = []

    def distance(generated, real):
        seen.append(generated)
        assert real is batch.images
        return (generated - real).abs().mean()

    terms = generator_step(*networks, output, batch, weights=weights, perceptual=distance)
    assert len(seen) == 2 and seen[0] is output.images and seen[1] is output.refined
    expected = distance(output.images, batch.images) + 2 * distance(output.refined, batch.images)
    torch.testing.assert_close(terms["perceptual"], expected.detach())
    with pytest.raises(ValueError, match="generator_step: perceptual: expected a network, as the loss has a weight"):
        generator_step(*networks, generate(model.generator, batch), batch, weights=weights)
