import pytest
import torch
import torch.nn.functional as F
from ecgan_parts import CLASSES, config, labels, one_hot, outlines
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from pyeqgan.models import ECGANConfig, ECGANGenerator
from pyeqgan.models.ecgan.branches import Branches, SemanticPreserving
from pyeqgan.models.ecgan.layout import JointConv2d, Layout
from pyeqgan.models.ecgan.trunk import Spade, SpadeBlock, Trunk

MODULES = ("image", "edge", "transfer", "semantic")


def random_statistics(module: nn.Module) -> None:
    for name, buffer in module.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.uniform_(0.5, 1.5)


@pytest.mark.parametrize("modules", MODULES)
@pytest.mark.parametrize("instance_edges", [False, True])
def test_gradients_reach_every_parameter(modules, instance_edges):
    generator = ECGANGenerator(config(modules=modules, instance_edges=instance_edges))
    output = generator(labels(), outlines() if instance_edges else None)
    loss = sum((x * torch.randn_like(x)).sum() for x in (*output.modalities.values(), *output.features))
    loss.backward()
    without = [n for n, p in generator.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert not without


@pytest.mark.parametrize("modules", MODULES)
def test_each_variant_makes_what_it_has_modules_for(modules):
    output = ECGANGenerator(config(modules=modules))(labels(3))
    expected = {"image": ["images"], "edge": ["edges", "images"], "transfer": ["edges", "images"]}
    assert list(output.modalities) == expected.get(modules, ["edges", "images", "refined"])
    assert all(x.shape == (3, 3, 16, 24) and x.abs().max() <= 1 for x in output.modalities.values())
    assert output.final is (output.images if output.refined is None else output.refined)
    assert [tuple(f.shape) for f in output.features] == [(3, 64, 2, 3), (3, 32, 4, 6), (3, 16, 8, 12)]


@pytest.mark.parametrize(
    ("upsamplings", "channels"),
    [
        (3, [512, 256, 128, 64]),
        (4, [1024, 512, 256, 128, 64]),
        (5, [1024, 1024, 1024, 512, 256, 128, 64]),
        (6, [1024, 1024, 1024, 512, 256, 128, 64]),
        (7, [1024, 1024, 1024, 1024, 512, 256, 128, 64]),
    ],
)
def test_trunks_are_the_published_ones(upsamplings, channels):
    with FakeTensorMode():
        trunk = Trunk(ECGANConfig(35, 256, 512, upsamplings=upsamplings))
        features, contrasted = trunk(Layout(torch.zeros(1, 256, 512, dtype=torch.int64)))
    assert [block.convolution2.out_channels for block in trunk.blocks] == channels
    assert features.shape == (1, 64, 256, 512)
    assert [tuple(f.shape[1:]) for f in contrasted] == [(512, 32, 64), (256, 64, 128), (128, 128, 256)]


@pytest.mark.parametrize("instance_edges", [False, True])
@pytest.mark.parametrize("geometry", [(3, 1, 1), (4, 2, 2)], ids=["3x3", "4x4 stride 2"])
@pytest.mark.parametrize("maps", [[], [4], [4, 3, 3]], ids=len)
def test_a_joint_convolution_is_that_of_the_concatenation(instance_edges, geometry, maps):
    kernel, stride, padding = geometry
    joint = JointConv2d(config(instance_edges=instance_edges), maps, 6, kernel, stride=stride, padding=padding).double()
    layout = Layout(labels(), outlines().double() if instance_edges else None)
    given = [torch.randn(2, c, 16, 24, dtype=torch.float64) for c in maps]
    edges = [] if layout.edges is None else [layout.edges]
    whole = torch.cat([*given, *edges, one_hot(layout.labels)], 1)
    plain = nn.Conv2d(whole.shape[1], 6, kernel, stride, padding).double()
    plain.load_state_dict(joint.state_dict())
    torch.testing.assert_close(joint(layout, *given), plain(whole))
    torch.testing.assert_close(joint(layout, *given, activation="relu"), plain(whole).relu())
    torch.testing.assert_close(joint(layout, *given, activation="leaky_relu"), F.leaky_relu(plain(whole), 0.2))


@pytest.mark.parametrize("activation", ["leaky_relu", None])
@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_spade_is_its_equation(norm, activation):
    spade = Spade(config(norm=norm), 6, activation=activation).double()
    layout, x = Layout(labels()), 3 * torch.randn(2, 6, 16, 24, dtype=torch.float64) + 1
    plain = (nn.BatchNorm2d if norm == "batch" else nn.InstanceNorm2d)(6, affine=False).double()

    def expected():
        hidden = F.conv2d(one_hot(layout.labels), spade.hidden.weight, spade.hidden.bias, padding=1).relu()
        gamma, beta = F.conv2d(hidden, spade.modulation.weight, spade.modulation.bias, padding=1).split(6, 1)
        y = plain(x) * (1 + gamma) + beta
        return y if activation is None else F.leaky_relu(y, 0.2)

    torch.testing.assert_close(spade(x, layout), expected())
    spade.eval(), plain.eval()  # with the running statistics that both have learned
    torch.testing.assert_close(spade(x, layout), expected())


@pytest.mark.parametrize("channels", [(8, 8), (16, 8), (8, 16)])
def test_a_block_is_a_residual_block(channels):
    block = SpadeBlock(config(), *channels).double().eval()
    layout, x = Layout(labels()), torch.randn(2, channels[0], 16, 24, dtype=torch.float64)
    y = block.convolution2(block.modulation2(block.convolution1(block.modulation1(x, layout)), layout))
    shortcut = x if channels[0] == channels[1] else block.shortcut[1](block.shortcut[0](x, layout))
    torch.testing.assert_close(block(x, layout), y + shortcut)
    assert (block.shortcut is None) == (channels[0] == channels[1])


def test_spectral_norm_bounds_the_convolutions_of_the_blocks():
    generator = ECGANGenerator(config())
    with torch.no_grad():
        for _ in range(100):
            generator(labels(1))
    generator.eval()
    for block in generator.trunk.blocks:
        for convolution in (block.convolution1, block.convolution2):
            norm = torch.linalg.matrix_norm(convolution.weight.detach().flatten(1), 2)
            assert norm == pytest.approx(1, abs=0.05)


def test_edges_guide_the_image_as_the_equations_say():
    branches = Branches(config(modules="transfer")).double()
    activated = torch.randn(2, 8, 16, 24, dtype=torch.float64)
    of_edges, of_image = activated, activated
    for i in range(4):
        e, x = branches.edge[i](of_edges), branches.image[i](of_image)
        attention = (e if i < 3 else e.tanh()).sigmoid()
        of_edges, of_image = F.leaky_relu(e, 0.2), F.leaky_relu(x * attention + x, 0.2)
    edges, images = branches(activated)
    torch.testing.assert_close(edges, e.tanh())
    torch.testing.assert_close(images, (x * attention + x).tanh())


def test_without_transfer_the_image_does_not_know_the_edges():
    branches = Branches(config(modules="edge"))
    _, images = branches(torch.randn(2, 8, 16, 24))
    images.sum().backward()
    assert all(p.grad is None for p in branches.edge.parameters())


def test_the_semantic_preserving_module_is_its_equation():
    module = SemanticPreserving(config()).double()
    activated = torch.randn(2, 8, 16, 24, dtype=torch.float64)
    images, edges = (torch.rand(2, 3, 16, 24, dtype=torch.float64) * 2 - 1 for _ in range(2))
    layout = Layout(labels())
    whole = torch.cat([activated, *(F.leaky_relu(x, 0.2) for x in (images, edges, one_hot(layout.labels)))], 1)
    maps = F.conv2d(whole, module.joint.weight, module.joint.bias, padding=1)
    assert maps.shape[1] == CLASSES
    gated = maps * (1 + maps.mean((2, 3), keepdim=True).sigmoid())
    expected = module.to_image(F.leaky_relu(module.hidden(gated), 0.2)).tanh()
    torch.testing.assert_close(module(activated, images, edges, layout), expected)


def test_what_is_ignored_and_how_large_a_batch_is_change_nothing_in_generate():
    generator = ECGANGenerator(config())
    random_statistics(generator)
    layouts = labels(5)
    whole, parts = generator.generate(layouts), generator.generate(layouts, batch_size=2)
    assert generator.training
    assert whole.features == []
    for name, x in whole.modalities.items():
        assert x.shape == (5, 3, 16, 24) and not x.requires_grad
        torch.testing.assert_close(parts.modalities[name], x)
    again = generator.generate(layouts)
    assert torch.equal(again.final, whole.final)
    generator.eval()
    torch.testing.assert_close(generator(layouts).final, whole.final)


def test_training_mode_sees_the_batch_and_moves_the_running_statistics():
    generator = ECGANGenerator(config())
    layouts = labels(2)
    one = generator.generate(layouts)
    generator(layouts)
    assert not torch.equal(generator.generate(layouts).final, one.final)


def test_every_label_has_its_say():
    """At the noise of a layout, a pixel of another class changes the image there."""
    generator = ECGANGenerator(config()).eval()
    layouts = torch.zeros(CLASSES + 1, 16, 24, dtype=torch.int64)
    layouts[:, 8, 12] = torch.arange(-1, CLASSES)
    images = generator(layouts).final[:, :, 8, 12]
    assert len(images.unique(dim=0)) == CLASSES + 1


def test_a_layout_is_resized_by_its_nearest_labels():
    layout = Layout(labels(), outlines())
    for level in (0, 1, 3):
        size = (16 >> level, 24 >> level)
        expected = F.interpolate(layout.labels[:, None].double(), size).squeeze(1).long()
        assert torch.equal(layout.at(level).labels, expected)
        assert torch.equal(layout.at(level).edges, F.interpolate(layout.edges, size))


@pytest.mark.parametrize(
    ("fields", "arguments", "error", "message"),
    [
        ({}, (torch.zeros(2, 24, 16, dtype=torch.int64),), ValueError, r"labels: expected shape \(B,16,24\), got"),
        ({}, (torch.zeros(2, 16, 24),), TypeError, "labels: expected torch.int64, got torch.float32"),
        ({}, (labels(), outlines()), ValueError, "instance_edges: expected None, got a tensor"),
        ({"instance_edges": True}, (labels(),), ValueError, "instance_edges: expected a tensor, .*, got None"),
        (
            {"instance_edges": True},
            (labels(), outlines(3)),
            ValueError,
            r"instance_edges: expected shape \(2, 1, 16, 24\), got \(3, 1, 16, 24\)",
        ),
    ],
)
def test_layouts_that_do_not_fit_are_named(fields, arguments, error, message):
    generator = ECGANGenerator(config(**fields))
    for call, name in ((generator, "ECGANGenerator"), (generator.generate, "generate")):
        with pytest.raises(error, match=f"^{name}: {message}"):
            call(*arguments)


@pytest.mark.parametrize("label", [-2, CLASSES])
def test_generate_refuses_labels_that_are_no_classes(label):
    layouts = labels()
    layouts[1, 3, 4] = label
    with pytest.raises(ValueError, match=rf"generate: labels: expected values in \[0, {CLASSES}\) or -1, got"):
        ECGANGenerator(config()).generate(layouts)


def test_generate_refuses_nothing_and_batches_of_none():
    generator = ECGANGenerator(config())
    with pytest.raises(ValueError, match="generate: labels: expected at least one layout, got none"):
        generator.generate(labels(0))
    with pytest.raises(ValueError, match="generate: batch_size: expected an integer >= 1, got 0"):
        generator.generate(labels(), batch_size=0)
