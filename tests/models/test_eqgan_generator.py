import itertools

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from pyeqgan.models import EqGANConfig, EqGANGenerator, FusionPlan

VARIATIONS = [
    {"fusion": f, "equalization": e, "detail": d}
    for f, e, d in itertools.product(("local", "mean"), ("scales", "shared"), ("fused", "base", "none"))
]


def small(**fields) -> EqGANGenerator:
    return EqGANGenerator(EqGANConfig(3, **{"image_size": 32, "width": 0.25, **fields}))


def photographs(*leading: int, side: int = 32) -> torch.Tensor:
    return torch.rand(*leading, 3, side, side) * 2 - 1


@pytest.mark.parametrize("fields", VARIATIONS, ids=lambda f: "-".join(f.values()))
def test_gradients_reach_every_parameter(fields):
    generator = small(**fields)
    for name, parameter in generator.named_parameters():
        if name.endswith("gate_reduce.bias"):  # four ReLUs that may all start dead
            torch.nn.init.ones_(parameter)
    output = generator(photographs(2, 3))
    loss = (output.images * torch.randn_like(output.images)).sum()
    for e, d in zip(output.equalized, output.decoded, strict=True):
        loss = loss + (e * torch.randn_like(e)).sum() + (d * torch.randn_like(d)).sum()
    loss.backward()
    without = {n for n, p in generator.named_parameters() if p.grad is None or not p.grad.abs().max() > 0}
    # The instance norm behind it takes the bias of a fusion away; its gradient is zero, not the noise of rounding.
    assert all(n.endswith("fuse.bias") for n in without), without


@pytest.mark.parametrize("fields", VARIATIONS, ids=lambda f: "-".join(f.values()))
def test_features_have_the_published_scales(fields):
    output = small(**fields)(photographs(2, 2))
    assert output.images.shape == (2, 3, 32, 32)
    assert output.images.abs().max() <= 1
    expected = [(2, 32, 4, 4), (2, 32, 8, 8), (2, 16, 16, 16), (2, 8, 32, 32)]
    assert [tuple(e.shape) for e in output.equalized] == expected
    assert [tuple(d.shape) for d in output.decoded] == expected
    grids = [2, 4, 8] if fields["fusion"] == "local" else []
    assert sorted(output.matches) == sorted(output.plan.positions) == grids
    assert all(output.matches[side].shape == (2, 1, side * side // 2) for side in grids)


@pytest.mark.parametrize("side", [48, 64, 96, 128, 256])
def test_every_image_size(side):
    with FakeTensorMode():
        generator = small(image_size=side, width=1.0)
        output = generator(torch.empty(2, 3, 3, side, side))
    assert output.images.shape == (2, 3, side, side)
    assert [tuple(e.shape[1:]) for e in output.equalized] == [
        (c, side // r, side // r) for c, r in ((128, 8), (128, 4), (64, 2), (32, 1))
    ]


@pytest.mark.parametrize(("batch", "shots"), [(1, 1), (1, 3), (3, 1), (2, 5)])
def test_any_batch_and_any_number_of_shots(batch, shots):
    generator = small()
    output = generator(photographs(batch, shots))
    output.images.sum().backward()
    assert output.images.shape == (batch, 3, 32, 32)
    assert output.images.isfinite().all()


def test_a_plan_fixes_the_output_and_a_seed_the_plan():
    generator = small()
    images = photographs(2, 3)
    first = generator(images, generator=torch.Generator().manual_seed(1))
    again = generator(images, plan=first.plan)
    seeded = generator(images, generator=torch.Generator().manual_seed(1))
    other = generator(images, generator=torch.Generator().manual_seed(2))
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.images, seeded.images)
    assert not torch.equal(first.images, other.images)


@pytest.mark.parametrize("fusion", ["local", "mean"])
def test_the_order_of_the_images_does_not_matter(fusion):
    generator = small(fusion=fusion).double().eval()
    images, order = photographs(2, 3).double(), torch.tensor([2, 0, 1])
    plan = generator.sample_plan(2, 3)
    shuffled = FusionPlan(plan.weights[:, order], torch.argsort(order)[plan.base], plan.positions)
    expected = generator(images, plan=plan).images
    torch.testing.assert_close(generator(images[:, order], plan=shuffled).images, expected)


def test_with_all_the_weight_on_the_base_the_references_do_not_matter():
    generator = small().double().eval()
    images = photographs(2, 3).double()
    plan = generator.sample_plan(2, 3)
    plan = plan._replace(weights=torch.nn.functional.one_hot(plan.base, 3).double())
    alone = FusionPlan(torch.ones(2, 1), torch.zeros(2, dtype=torch.int64), plan.positions)
    expected = generator(plan.base_first(images)[:, :1], plan=alone).images
    torch.testing.assert_close(generator(images, plan=plan).images, expected)


@pytest.mark.parametrize("equalization", ["scales", "shared"])
def test_transposed_images_and_kernels_give_the_transposed_image(equalization):
    generator = small(equalization=equalization).double().eval()
    images, plan = photographs(2, 3).double(), generator.sample_plan(2)
    expected = generator(images, plan=plan).images.mT
    with torch.no_grad():
        for parameter in generator.parameters():
            if parameter.dim() == 4:
                parameter.copy_(parameter.mT.clone())
    positions = {side: p % side * side + p // side for side, p in plan.positions.items()}
    given = generator(images.mT, plan=plan._replace(positions=positions)).images
    torch.testing.assert_close(given, expected)


@pytest.mark.parametrize("detail", ["fused", "base", "none"])
def test_detail_decides_what_reaches_the_finest_scales(detail):
    generator = small(detail=detail).eval()
    seen: list[torch.Tensor | None] = []
    for scale in generator.equalization.scales:
        scale.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[2]))
    images = photographs(2, 3)
    output = generator(images)
    assert [d is None for d in seen] == [True, True, detail == "none", detail == "none"]
    if detail == "base":
        with torch.no_grad():
            features = generator.encoder(output.plan.base_first(images)[:, 0])
        torch.testing.assert_close(seen[2], features[1])
        torch.testing.assert_close(seen[3], features[0])


def test_autocast_and_channels_last():
    generator = small().to(memory_format=torch.channels_last)
    images = photographs(2, 3)
    with torch.autocast("cpu", torch.bfloat16):
        output = generator(images)
    assert output.equalized[0].dtype == torch.bfloat16
    output.images.float().square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in generator.parameters())
    reference = small()
    reference.load_state_dict(generator.state_dict())
    generator, reference = generator.double().eval(), reference.double().eval()
    given = generator(images.double(), plan=output.plan).images
    torch.testing.assert_close(given, reference(images.double(), plan=output.plan).images)


@pytest.mark.parametrize("shape", [(2, 3, 3, 32, 48), (3, 3, 32, 32), (2, 0, 3, 32, 32), (2, 3, 1, 32, 32)])
def test_images_of_a_wrong_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"images: expected shape \(B,K,3,32,32\), none 0, got \("):
        small()(torch.zeros(shape))


def test_integer_images_are_refused():
    with pytest.raises(TypeError, match=r"images: expected floating point in \[-1, 1\], got torch.uint8"):
        small()(torch.zeros(2, 3, 3, 32, 32, dtype=torch.uint8))


def test_a_plan_for_other_images_is_refused():
    generator = small()
    with pytest.raises(ValueError, match="FusionPlan: weights: expected shape"):
        generator(photographs(2, 3), plan=generator.sample_plan(2, 2))


def test_generate_is_fixed_by_the_seed_at_any_batch_size():
    generator = small().double().train()  # in float32 rounding could move a match
    references = photographs(5)
    before = {k: v.clone() for k, v in generator.state_dict().items()}
    first = generator.generate(references, 7, seed=3, batch_size=16)
    assert first.shape == (7, 3, 32, 32)
    assert not first.requires_grad
    torch.testing.assert_close(generator.generate(references, 7, seed=3, batch_size=2), first)
    drawn = generator.generate(references, 7, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(drawn, first)
    assert not torch.allclose(generator.generate(references, 7, seed=4), first)
    assert (first[1:] - first[:-1]).abs().amax((1, 2, 3)).min() > 0
    assert generator.training
    assert all(torch.equal(v, before[k]) for k, v in generator.state_dict().items())


def test_generate_fuses_as_many_images_as_asked_without_repeats():
    generator = small()
    seen = []
    generator.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    references = photographs(4)
    generator.generate(references, 6, shots=4)
    generator.generate(references[:1], 2, shots=1)
    for row in seen[0]:
        found = [int((references == image).flatten(1).all(1).nonzero()) for image in row]
        assert sorted(found) == [0, 1, 2, 3]
    assert seen[1].shape == (2, 1, 3, 32, 32)


def test_generate_takes_the_shares_of_the_images():
    generator, images = small().eval(), photographs(3)
    plans = []
    generator.register_forward_pre_hook(lambda _, args, kwargs: plans.append(kwargs["plan"]), with_kwargs=True)
    generator.generate(images, 400, weights=[6, 1, 1], shots=3, seed=0, batch_size=400)
    (plan,) = plans
    assert torch.equal(plan.weights.sort(1).values, torch.tensor([[0.125, 0.125, 0.75]]).expand(400, 3))
    heavy = plan.weights.argmax(1)  # where the first image is in each row
    assert 260 < (plan.base == heavy).sum() < 340  # 300 expected, 5 standard deviations are 43
    nearly = generator.generate(images, 2, weights=[1, 1e-12, 1e-12], shots=3, seed=0)
    other = torch.cat([images[:1], photographs(2)])
    torch.testing.assert_close(generator.generate(other, 2, weights=[1, 1e-12, 1e-12], shots=3, seed=0), nearly)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"count": 0}, "generate: count: expected an integer >= 1, got 0"),
        ({"batch_size": 0}, "generate: batch_size: expected an integer >= 1, got 0"),
        ({"shots": 6}, "generate: images: expected at least 6 to fuse, got 5"),
        ({"seed": 1, "generator": torch.Generator()}, "generate: expected seed or generator, got both"),
        ({"images": torch.full((5, 3, 32, 32), 255.0)}, r"expected values in \[-1, 1\], got 255 to 255"),
        ({"images": torch.full((5, 3, 32, 32), torch.nan)}, r"expected values in \[-1, 1\], got nan"),
        ({"weights": [1, 2]}, r"weights: expected 5 finite numbers > 0, got \[1, 2\]"),
        ({"weights": [1, 2, 0, 1, 1]}, "weights: expected 5 finite numbers > 0"),
        ({"weights": [1, 2, torch.inf, 1, 1]}, "weights: expected 5 finite numbers > 0"),
        ({"images": torch.zeros(5, 3, 64, 64)}, r"images: expected shape \(n,3,32,32\), none 0, got \("),
    ],
)
def test_generate_refuses_what_it_cannot_do(arguments, message):
    with pytest.raises(ValueError, match=message):
        small().generate(**{"images": photographs(5), "count": 2, **arguments})
