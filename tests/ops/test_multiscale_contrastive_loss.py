"""multiscale_contrastive_loss: composition, label resizing, sampling, errors."""

from __future__ import annotations

import pytest
import ranks
import torch
import torch.distributed as dist
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


IMAGES = (1, 2)  # of the ranks


def work(rank, features, labels, seed):
    return loss_and_gradients(
        [f.split(IMAGES)[rank] for f in features], labels.split(IMAGES)[rank], seed, dist.group.WORLD
    )


def loss_and_gradients(features, labels, seed, group):
    found = {}
    for max_pixels in (None, 3):
        inputs = [leaf(f) for f in features]
        contrast = MultiScaleContrastiveLoss(cross_scale=[(1, 0)], max_pixels=max_pixels)
        loss = contrast(inputs, labels, generator=torch.Generator().manual_seed(seed), group=group)
        found[max_pixels] = [loss.detach(), *torch.autograd.grad(loss, inputs)]
    return found


def test_ranks_draw_and_find_what_one_process_does(tmp_path):
    seed = seed_everything()
    features = [torch.randn(3, 5, s, s, dtype=torch.float64) for s in (4, 6)]
    labels = torch.randint(-1, 3, (3, 12, 12))
    expected = loss_and_gradients(features, labels, seed, None)
    found = ranks.run(work, 2, tmp_path, features, labels, seed)
    for max_pixels, (loss, *gradients) in expected.items():
        parts = [rank[max_pixels] for rank in found]
        for part in parts:
            torch.testing.assert_close(part[0], loss)
        for index, gradient in enumerate(gradients, 1):
            torch.testing.assert_close(torch.cat([part[index] for part in parts]), gradient)


def test_rows_of_an_image_are_as_many_whatever_its_labels_and_evenly_of_its_classes():
    seed = seed_everything()
    labels = torch.randint(-1, 3, (4, 8, 9))
    labels[1] = 2
    labels[2] = -1
    labels[3] = 0
    labels[3, 0, :3] = torch.tensor([1, 1, 2])
    features = torch.arange(4 * 8 * 9, dtype=torch.float64).view(4, 1, 8, 9)
    for rows, most in ((9, 4), (9, 100), (1, 2), (100, 5), (72, 72)):
        generator = torch.Generator().manual_seed(seed)
        chosen, of = reference.pixels_of_scale(features, labels, -1, most, generator, rows)
        index = chosen.flatten().long().view(4, -1)
        assert index.shape[1] == min(rows, 72)
        assert torch.equal(index // 72, torch.arange(4)[:, None].expand_as(index))
        assert len(set(index.flatten().tolist())) == index.numel()
        counts = torch.stack([(of.view(4, -1) == label).sum(1) for label in range(3)], 1)
        known = of >= 0
        assert torch.equal(labels.flatten()[index.flatten()[known]], of[known])
        for image in range(4):
            there = [min(most, int((labels[image] == label).sum())) for label in range(3)]
            assert int(counts[image].sum()) == min(rows, sum(there))
            for taken, available in zip(counts[image].tolist(), there, strict=True):
                assert taken == available or taken >= int(counts[image].max()) - 1, "no class has less than its share"


def test_enough_rows_of_an_image_are_those_that_are_drawn():
    """The same pixels contrast, and the others are ignored: value and gradients differ by the order of sums alone."""
    seed = seed_everything()
    features, labels = pyramid()
    found = []
    for rows in (None, 3 * 6, 1000):
        inputs = [leaf(f) for f in features]
        generator = torch.Generator().manual_seed(seed)
        loss = MultiScaleContrastiveLoss(max_pixels=6, rows_per_image=rows, cross_scale=[(2, 0)])
        value = loss(inputs, labels, generator=generator)
        found.append([value, *torch.autograd.grad(value, inputs)])
    for other in found[1:]:
        torch.testing.assert_close(other, found[0])


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
        (ValueError, "rows_per_image: expected an integer", (features, labels), {"max_pixels": 2, "rows_per_image": 0}),
        (ValueError, "rows_per_image: expected None without max_pixels", (features, labels), {"rows_per_image": 3}),
    ):
        with pytest.raises(error, match=f"multiscale_contrastive_loss: {message}"):
            multiscale_contrastive_loss(*arguments, **options)
    with pytest.raises(ValueError, match="temperature: expected a number > 0, got 0"):
        MultiScaleContrastiveLoss(temperature=0)
