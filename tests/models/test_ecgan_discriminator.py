import pytest
import torch
import torch.nn.functional as F
from ecgan_parts import CLASSES, config, labels, one_hot, outlines
from torch import nn

from pyeqgan.models import ECGAN, ECGANDiscriminator, ECGANProjection, ECGANSegmenter


def maps(count: int = 3, batch: int = 2, **options: object) -> torch.Tensor:
    return torch.rand(count, batch, 3, 16, 24, **options) * 2 - 1


def plain_judgement(scale: nn.Module, layout: torch.Tensor, image: torch.Tensor) -> list[torch.Tensor]:
    """One scale as published: on the concatenation. The features, and the logits last."""
    x = F.conv2d(torch.cat([image, one_hot(layout)], 1), scale.first.weight, scale.first.bias, 2, 2)
    outputs = [F.leaky_relu(x, 0.2)]
    for convolution, stride in zip(scale.middle, (2, 2, 1), strict=True):
        y = F.conv2d(outputs[-1], convolution.weight, None, stride, 2)
        y = (y - y.mean((2, 3), keepdim=True)) / (y.var((2, 3), correction=0, keepdim=True) + 1e-5).sqrt()
        outputs.append(F.leaky_relu(y, 0.2))
    return [*outputs, F.conv2d(outputs[-1], scale.last.weight, scale.last.bias, 1, 2)]


def test_it_is_the_published_network_on_every_map():
    discriminator = ECGANDiscriminator(config()).double().eval()
    layout, images = labels(), maps(dtype=torch.float64)
    judgements = discriminator(layout, images)
    assert len(judgements) == 2
    for m, image in enumerate(images):
        halved = F.avg_pool2d(image, 3, 2, 1, count_include_pad=False)
        for scale, judgement, at in zip(
            discriminator.scales, judgements, ((layout, image), (layout[:, ::2, ::2], halved)), strict=True
        ):
            *features, logits = plain_judgement(scale, *at)
            torch.testing.assert_close(judgement.logits[m], logits)
            for given, expected in zip(judgement.features, features, strict=True):
                torch.testing.assert_close(given[m], expected)


def test_gradients_reach_every_parameter_and_every_map():
    discriminator = ECGANDiscriminator(config(instance_edges=True))
    given = maps().requires_grad_()
    judgements = discriminator(labels(), given, outlines())
    sum((j.logits * torch.randn_like(j.logits)).sum() for j in judgements).backward()
    assert given.grad.abs().amax((2, 3, 4)).min() > 0
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in discriminator.parameters())


def test_it_judges_by_the_layout_and_by_the_instances():
    discriminator = ECGANDiscriminator(config(instance_edges=True)).eval()
    layout, edges, given = labels(), outlines(), maps()
    logits = discriminator(layout, given, edges)[0].logits
    assert not torch.equal(discriminator(layout.roll(1, 0), given, edges)[0].logits, logits)
    assert not torch.equal(discriminator(layout, given, 1 - edges)[0].logits, logits)


def test_spectral_norm_rests_in_eval_mode():
    discriminator = ECGANDiscriminator(config())
    layout, given = labels(), maps()
    before = {k: v.clone() for k, v in discriminator.state_dict().items()}
    discriminator(layout, given)
    moved = {k for k, v in discriminator.state_dict().items() if not torch.equal(v, before[k])}
    assert moved and all("parametrizations" in k for k in moved)
    discriminator.eval()
    before = {k: v.clone() for k, v in discriminator.state_dict().items()}
    discriminator(layout, given)
    assert all(torch.equal(v, before[k]) for k, v in discriminator.state_dict().items())


@pytest.mark.parametrize("shape", [(2, 3, 16, 24), (3, 1, 3, 16, 24), (3, 2, 1, 16, 24), (3, 2, 3, 24, 16)])
def test_maps_of_a_wrong_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"ECGANDiscriminator: maps: expected shape \(M,2,3,16,24\), got"):
        ECGANDiscriminator(config())(labels(), torch.zeros(shape))


def test_the_segmenter_is_a_u_net_of_the_images_size():
    segmenter = ECGANSegmenter(config())
    images = torch.rand(2, 3, 16, 24) * 2 - 1
    logits = segmenter(images)
    assert logits.shape == (2, CLASSES, 16, 24)
    (logits * torch.randn_like(logits)).sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in segmenter.parameters())
    segmenter.eval()
    changed = images.clone()
    changed[:, :, 5, 5] += 1
    difference = (segmenter(changed) - segmenter(images)).abs().sum((0, 1))
    assert difference[5, 5] > 0, "the finest skip connection is missing"


def test_the_projection_has_a_head_a_scale_and_projects_the_finest_alone():
    projection = ECGANProjection(config())
    features = [torch.randn(2, c, 16 >> level, 24 >> level) for c, level in ((64, 3), (32, 2), (16, 1))]
    vectors = projection(features)
    assert [tuple(v.shape) for v in vectors] == [(2, 64, 2, 3), (2, 64, 4, 6), (2, 64, 8, 12)]
    projection.eval()
    torch.testing.assert_close(projection(features[-1:])[0], projection(features)[-1])
    assert ECGANProjection(config(width=0.5)).heads[0][-1].out_channels == 128


def test_ecgan_holds_all_networks_and_generates():
    model = ECGAN(config())
    layouts = labels(3)
    given = model.generate(layouts)
    assert torch.equal(given.final, model.generator.generate(layouts).final)
    again = ECGAN(model.config)
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.generate(layouts).final, given.final)
    assert {name for name, _ in model.named_children()} == {"generator", "discriminator", "projection", "segmenter"}
