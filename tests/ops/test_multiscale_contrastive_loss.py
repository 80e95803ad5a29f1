"""multiscale_contrastive_loss: composition, label resizing, sampling, errors."""

from __future__ import annotations

import pytest
import torch
from numerics import assert_gradients_of_both_orders
from sampling import leaf, seed_everything

from pyeqgan import reference
from pyeqgan.functional import contrastive_loss, multiscale_contrastive_loss
from pyeqgan.nn import MultiScaleContrastiveLoss


def pyramid(dtype=torch.float64):
    features = [torch.randn(2, 5, h, w, dtype=dtype) for h, w in ((3, 4), (6, 8), (5, 7))]
    return features, torch.randint(-1, 3, (2, 12, 16))


def rows(features):
    return features.permute(0, 2, 3, 1).reshape(-1, features.shape[1])


def test_is_the_weighted_sum_within_and_across_scales():
    seed_everything()
    features, labels = pyramid()
    nearest = [
        torch.nn.functional.interpolate(labels[:, None].double(), f.shape[2:], mode="nearest").long().flatten()
        for f in features
    ]
    expected = sum(w * contrastive_loss(rows(f), n) for w, f, n in zip((0.4, 0.7, 1.0), features, nearest, strict=True))
    expected += 0.5 * contrastive_loss(rows(features[1]), nearest[1], rows(features[0]), nearest[0])
    options = {"scale_weights": [0.4, 0.7, 1.0], "cross_scale": [(1, 0)], "cross_weight": 0.5}
    torch.testing.assert_close(multiscale_contrastive_loss(features, labels, **options), expected)
    torch.testing.assert_close(reference.multiscale_contrastive_loss(features, labels, **options), expected)
    torch.testing.assert_close(MultiScaleContrastiveLoss(**options)(features, labels), expected)


@pytest.mark.parametrize("mode", ["per_positive", "supcon"])
def test_gradients_of_both_orders(mode):
    seed_everything()
    features, labels = pyramid()
    inputs = [leaf(f) for f in features[:2]]

    def loss(*f):
        return multiscale_contrastive_loss(f, labels, mode=mode, cross_scale=[(1, 0)])

    assert_gradients_of_both_orders(loss, inputs)


def test_sampling_takes_at_most_so_many_pixels_of_each_image_and_class():
    seed = seed_everything()
    labels = torch.randint(-1, 3, (3, 8, 9))
    labels[1] = 2
    labels[2, :4] = -1
    features = torch.arange(3 * 8 * 9, dtype=torch.float64).view(3, 1, 8, 9)
    chosen, chosen_labels = reference.pixels_of_scale(features, labels, -1, 4, torch.Generator().manual_seed(seed))
    index = chosen.flatten().long()
    assert torch.equal(labels.flatten()[index], chosen_labels)
    assert len(set(index.tolist())) == len(index)
    for image in range(3):
        for label in range(-1, 3):
            there = int((labels[image] == label).sum())
            taken = int(((index // 72 == image) & (chosen_labels == label)).sum())
            assert taken == (0 if label == -1 else min(4, there))


def test_sampling_is_uniform_and_reproducible():
    seed_everything()
    labels = torch.zeros(1, 4, 5, dtype=torch.int64)
    features = torch.arange(20, dtype=torch.float64).view(1, 1, 4, 5)
    generator = torch.Generator().manual_seed(3)
    draws = 2000
    counts = torch.zeros(20)
    for _ in range(draws):
        chosen = reference.pixels_of_scale(features, labels, -1, 5, generator)[0]
        counts[chosen.flatten().long()] += 1
    expected = draws * 5 / 20
    assert (counts - expected).abs().max() < 6 * expected**0.5
    feats, labs = pyramid()
    values = [
        multiscale_contrastive_loss(feats, labs, max_pixels=3, generator=torch.Generator().manual_seed(s))
        for s in (1, 1, 2)
    ]
    assert torch.equal(values[0], values[1])
    assert not torch.equal(values[0], values[2])


def test_learned_temperature_receives_its_gradient():
    seed_everything()
    features, labels = pyramid(torch.float32)
    loss = MultiScaleContrastiveLoss(learned_temperature=True)
    loss(features, labels).backward()
    assert loss.log_temperature.grad.abs() > 0


def test_wrong_arguments_are_named():
    features, labels = pyramid()
    for error, message, arguments, options in (
        (TypeError, "features: expected a non-empty list", (features[0], labels), {}),
        (TypeError, "features: expected a non-empty list", ([], labels), {}),
        (ValueError, r"labels: expected shape \(B, H, W\)", (features, labels[0]), {}),
        (TypeError, "labels: expected torch.int64", (features, labels.float()), {}),
        (ValueError, r"features\[1\]: expected shape \(2, D, h, w\)", ([features[0], features[1][:1]], labels), {}),
        (TypeError, r"features\[1\]: expected torch.float64", ([features[0], features[1].float()], labels), {}),
        (ValueError, "scale_weights: expected 3 numbers", (features, labels), {"scale_weights": [1.0]}),
        (ValueError, "scale_weights: expected a finite number >= 0", (features, labels), {"scale_weights": [1, 1, -1]}),
        (ValueError, "cross_scale: expected pairs of scale indices", (features, labels), {"cross_scale": [(0, 3)]}),
        (ValueError, "max_pixels: expected an integer >= 1", (features, labels), {"max_pixels": 0}),
    ):
        with pytest.raises(error, match=f"multiscale_contrastive_loss: {message}"):
            multiscale_contrastive_loss(*arguments, **options)
    with pytest.raises(ValueError, match="temperature: expected a number > 0, got 0"):
        MultiScaleContrastiveLoss(temperature=0)
