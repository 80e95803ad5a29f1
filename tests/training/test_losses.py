import math

import pytest
import torch
from torch.nn import functional as F

from pyeqgan.models import EqGANConfig, EqGANGenerator
from pyeqgan.training.eqgan import LossWeights, losses


def test_hinge_stops_at_the_margin():
    logit = torch.tensor([-2.0, 0.0, 3.0], requires_grad=True)
    assert losses.hinge_real(logit).item() == pytest.approx((3 + 1 + 0) / 3)
    assert losses.hinge_fake(logit).item() == pytest.approx((0 + 1 + 4) / 3)
    assert losses.adversarial(logit).item() == pytest.approx(-1 / 3)
    (losses.hinge_real(logit) + losses.hinge_fake(logit)).backward()
    torch.testing.assert_close(logit.grad, torch.tensor([-1.0, 0.0, 1.0]) / 3)


def test_half_precision_is_summed_in_float32_and_float64_stays():
    logit = torch.full((4096,), 1 / 3)
    assert losses.hinge_fake(logit.bfloat16()).dtype == torch.float32
    assert losses.classification(torch.zeros(2, 3).bfloat16(), torch.tensor([0, 1])).dtype == torch.float32
    assert losses.adversarial(logit.double()).dtype == torch.float64


def linear_judge(batch: int, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images and a matrix A with logits A·x, whose gradient is known: row n of A."""
    images = torch.randn(batch, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    return images, torch.randn(classes, 48, dtype=torch.float64, requires_grad=True)


def test_class_penalty_is_the_published_one():
    images, matrix = linear_judge(6, 5)
    labels = torch.tensor([0, 0, 0, 3, 3, 3])
    penalty = losses.class_penalty(images.flatten(1) @ matrix.T, labels, images, episodes=2)
    expected = (matrix[labels] / 6).square().sum() / 2
    torch.testing.assert_close(penalty, expected)
    (grad,) = torch.autograd.grad(penalty, matrix)
    (expected_grad,) = torch.autograd.grad(expected, matrix)
    torch.testing.assert_close(grad, expected_grad)


def test_adversarial_penalty_is_the_mean_squared_gradient_of_each_image():
    images, matrix = linear_judge(6, 1)
    logit = (images.flatten(1) @ matrix.T).squeeze(1)
    penalty = losses.adversarial_penalty(logit.square(), images)
    expected = ((2 * logit[:, None] * matrix).square().sum(1)).mean()
    torch.testing.assert_close(penalty, expected)


@pytest.mark.parametrize("fusion", ["local", "mean"])
def test_local_reconstruction_compares_with_the_fusion_of_the_images(fusion):
    generator = EqGANGenerator(EqGANConfig(3, image_size=32, width=0.25, fusion=fusion))
    images = torch.rand(2, 3, 3, 32, 32) * 2 - 1
    output = generator(images)
    plan, grid, s = output.plan, 2, 16
    rotated, weights = plan.base_first(images), plan.base_first(plan.weights)
    if fusion == "mean":
        target = (weights[:, :, None, None, None] * rotated).sum(1)
    else:
        target = rotated[:, 0].clone()
        for b in range(2):
            for i, p in enumerate(plan.positions[grid][b].tolist()):
                blend = torch.zeros(3, s, s)
                for k in range(3):
                    y, x = divmod(p if k == 0 else int(output.matches[grid][b, k - 1, i]), grid)
                    blend += weights[b, k] * rotated[b, k, :, s * y : s * y + s, s * x : s * x + s]
                y, x = divmod(p, grid)
                target[b, :, s * y : s * y + s, s * x : s * x + s] = blend
    torch.testing.assert_close(losses.local_reconstruction(images, output), F.l1_loss(output.images, target))
    assert losses.local_reconstruction(images, output._replace(images=target)) < 1e-6


def test_consistent_equalization_compares_all_scales():
    generator = EqGANGenerator(EqGANConfig(3, image_size=32, width=0.25))
    output = generator(torch.rand(2, 3, 3, 32, 32) * 2 - 1)
    pairs = zip(output.equalized, output.decoded, strict=True)
    expected = sum((1 - F.cosine_similarity(e, d)).mean() for e, d in pairs)
    torch.testing.assert_close(losses.consistent_equalization(output), expected)
    same = losses.consistent_equalization(output._replace(decoded=output.equalized))
    assert same.abs() < 1e-5


def test_mode_seeking_rewards_images_that_differ():
    generator = EqGANGenerator(EqGANConfig(3, image_size=32, width=0.25))
    plans = generator.sample_plan(2), generator.sample_plan(2)
    first, second = torch.rand(2, 2, 3, 32, 32)
    near, far = (losses.mode_seeking(first, first + d * (second - first), *plans) for d in (0.1, 1.0))
    torch.testing.assert_close(near, 10 * far, rtol=1e-2, atol=0)
    assert losses.mode_seeking(first, first, *plans).isfinite()


def test_the_lazy_penalty_keeps_its_total_weight():
    weights = LossWeights(penalty_every=4)
    given = [weights.penalty_at(step) for step in range(8)]
    assert given == [40, 0, 0, 0, 40, 0, 0, 0]
    assert [LossWeights().penalty_at(step) for step in range(3)] == [10, 10, 10]
    assert LossWeights(penalty="none").penalty_at(0) == 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"reconstruction": -1.0}, "reconstruction: expected a finite number >= 0, got -1.0"),
        ({"consistency": math.inf}, "consistency: expected a finite number >= 0, got inf"),
        ({"penalty": "r2"}, "penalty: expected 'class' or 'adversarial' or 'none', got 'r2'"),
        ({"penalty_every": 0}, "penalty_every: expected an integer >= 1, got 0"),
    ],
)
def test_a_wrong_weight_is_named(fields, message):
    with pytest.raises(ValueError, match=f"LossWeights: {message}"):
        LossWeights(**fields)
