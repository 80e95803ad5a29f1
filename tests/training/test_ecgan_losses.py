import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from ecgan_parts import labels

from pyeqgan.training.ecgan import LossWeights, losses

D = {"dtype": torch.float64}


def test_weights_are_the_published_ones_by_default():
    weights = LossWeights()
    assert weights.of(["edges", "images", "refined"]) == [1, 1, 2]
    assert weights.feature_matching == 10


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"edges": -1}, "edges: expected a finite number >= 0, got -1"),
        ({"contrastive": math.nan}, "contrastive: expected a finite number >= 0, got nan"),
        ({"feature_matching": math.inf}, "feature_matching: expected a finite number >= 0, got inf"),
        ({"images": 0, "refined": 0}, "images, refined: expected a weight > 0, got 0 for both"),
        ({"contrast": "double"}, "contrast: expected 'none' or 'single' or 'multi', got 'double'"),
        ({"similarity_stride": 0}, "similarity_stride: expected an integer >= 1, got 0"),
        ({"contrast_pixels": 0}, "contrast_pixels: expected an integer >= 1, got 0"),
    ],
)
def test_a_wrong_weight_is_named(fields, message):
    with pytest.raises(ValueError, match=f"^LossWeights: {message}$"):
        LossWeights(**fields)


def test_hinge_by_hand():
    """Two maps of one layout, at two scales of two patches and one."""
    fine = torch.tensor([[[[[0.5, 2.0]]]], [[[[-3.0, 0.0]]]]], **D)
    coarse = torch.tensor([[[[[-1.0]]]], [[[[1.5]]]]], **D)
    logits, weights = [fine, coarse], [1.0, 2.0]
    real = ((1 * (0.5 + 0) / 2 + 2 * (4 + 1) / 2) + (1 * 2 + 2 * 0)) / 2
    fake = ((1 * (1.5 + 3) / 2 + 2 * (0 + 1) / 2) + (1 * 0 + 2 * 2.5)) / 2
    generator = ((1 * -1.25 + 2 * 1.5) + (1 * 1 + 2 * -1.5)) / 2
    assert losses.hinge_real(logits, weights).item() == pytest.approx(real)
    assert losses.hinge_fake(logits, weights).item() == pytest.approx(fake)
    assert losses.adversarial(logits, weights).item() == pytest.approx(generator)


def test_feature_matching_by_hand():
    """Three fakes, of which two have the same real partner; two scales, two layers and one."""
    real = [[torch.tensor([[1.0], [4.0]], **D), torch.tensor([[0.0], [1.0]], **D)], [torch.tensor([[2.0], [2.0]], **D)]]
    fake = [
        [torch.tensor([[3.0], [3.0], [6.0]], **D), torch.tensor([[0.0], [2.0], [0.0]], **D)],
        [torch.tensor([[2.0], [0.0], [5.0]], **D)],
    ]
    fine = 1 * (2 + 0) + 1 * (1 + 1) + 2 * (2 + 1)
    coarse = 1 * 0 + 1 * 2 + 2 * 3
    given = losses.feature_matching(real, fake, [0, 1, 1], [1.0, 1.0, 2.0])
    assert given.item() == pytest.approx((fine + coarse) / 2)


def test_feature_matching_gives_real_maps_no_gradient():
    real, fake = ([[torch.randn(1, 2, 3, 4, 4, requires_grad=True)]] for _ in range(2))
    losses.feature_matching(real, fake, [0], [1.0]).backward()
    assert real[0][0].grad is None
    assert fake[0][0].grad.abs().min() > 0


def test_similarity_is_the_cross_entropy_of_all_pairs():
    logits, layout = torch.randn(2, 4, 6, 8, **D), torch.randint(-1, 4, (2, 6, 8))
    images = []
    for image, of_image in zip(logits[:, :, ::2, ::2], layout[:, ::2, ::2], strict=True):
        kept = of_image >= 0
        p, labels = image.softmax(0)[:, kept].T, of_image[kept]
        pairs = [
            F.binary_cross_entropy((p[m] @ p[n]).clamp(1e-6, 1 - 1e-6), (labels[m] == labels[n]).double())
            for m, n in itertools.product(range(len(p)), repeat=2)
        ]
        images.append(torch.stack(pairs).mean())
    torch.testing.assert_close(losses.similarity(logits, layout, 2), torch.stack(images).mean())


def infonce(queries, query_labels, keys, key_labels, same):
    """Equation of ECGAN at temperature 0.1, pair by pair."""
    queries, keys = F.normalize(queries, dim=1), F.normalize(keys, dim=1)
    values = []
    for i, (q, label) in enumerate(zip(queries, query_labels, strict=True)):
        others = [j for j in range(len(keys)) if key_labels[j] >= 0 and not (same and i == j)]
        scores = {j: q @ keys[j] / 0.1 for j in others}
        positives = [scores[j] for j in others if key_labels[j] == label]
        negatives = [scores[j].exp() for j in others if key_labels[j] != label]
        if label < 0 or not positives:
            continue
        against = sum(negatives) if negatives else torch.zeros((), **D)
        values.append(sum(-(s.exp() / (s.exp() + against)).log() for s in positives) / len(positives))
    return sum(values) / len(values)


def test_contrast_is_within_and_across_the_scales_of_the_whole_batch():
    layout = labels(2, 16, 16)
    vectors = [torch.randn(2, 6, s, s, **D) for s in (2, 4, 8)]
    rows = [v.permute(0, 2, 3, 1).flatten(0, 2) for v in vectors]
    of_rows = [layout[:, :: 16 // s, :: 16 // s].flatten() for s in (2, 4, 8)]
    within = [infonce(r, of, r, of, True) for r, of in zip(rows, of_rows, strict=True)]
    across = [infonce(rows[2], of_rows[2], rows[t], of_rows[t], False) for t in (0, 1)]
    expected = 0.4 * within[0] + 0.7 * within[1] + within[2] + sum(across)
    torch.testing.assert_close(losses.contrastive(vectors, layout), expected)
    torch.testing.assert_close(losses.contrastive(vectors[-1:], layout), within[2])


def test_contrast_draws_no_more_pixels_than_asked_for():
    layout = torch.zeros(2, 16, 16, dtype=torch.int64)
    layout[:, :8] = 1
    vectors = [torch.randn(2, 6, 8, 8)]
    one, two, other = (
        losses.contrastive(vectors, layout, max_pixels=3, generator=torch.Generator().manual_seed(s)) for s in (1, 1, 2)
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_segmentation_ignores_what_has_no_label():
    logits, layout = torch.randn(2, 4, 3, 5, **D), torch.randint(-1, 4, (2, 3, 5))
    kept = layout >= 0
    expected = F.cross_entropy(logits.permute(0, 2, 3, 1)[kept], layout[kept])
    torch.testing.assert_close(losses.segmentation(logits, layout), expected)
    assert losses.segmentation(logits, torch.full_like(layout, -1)) == 0


def test_losses_are_computed_in_float32_under_autocast():
    logits = [torch.randn(2, 3, 1, 4, 4, dtype=torch.bfloat16)]
    features = [[torch.randn(2, 3, 5, 4, 4, dtype=torch.bfloat16)]]
    given = [
        losses.hinge_real(logits, [1, 1]),
        losses.adversarial(logits, [1, 1]),
        losses.feature_matching(features, features, [0, 1], [1, 1]),
        losses.segmentation(torch.randn(2, 4, 3, 5, dtype=torch.bfloat16), torch.zeros(2, 3, 5, dtype=torch.int64)),
    ]
    assert all(loss.dtype == torch.float32 for loss in given)
