"""The CUDA C++ kernels of equalization_consistency_loss, run on the CPU, against the oracle."""

from __future__ import annotations

import pytest
import torch
from numerics import assert_as_accurate, cosine_terms
from sampling import leaf, random_image, seed_everything
from torch import Tensor

from pyeqgan import reference

# Off 32 pixels, 8 warps, 32 lanes and 4096 elements by one; an empty scale, one pixel, no channel.
SHAPES = (
    ((2, 3, 4, 5),),
    ((1, 2, 1, 1), (2, 33, 3, 11), (0, 3, 4, 4)),
    ((2, 7, 1, 31), (1, 70, 2, 2), (1, 5, 37, 23)),
    ((1, 0, 2, 2), (1, 9, 5, 13)),
    tuple((1, c, 2, 3) for c in range(2, 21)),  # more scales than a launch takes
)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def pyramids(shapes, dtype, layout):
    """Equalized and decoded features, every second scale in the other layout where `layout` is "mixed"."""
    other = {"contiguous": ["contiguous"] * 2, "channels_last": ["channels_last"] * 2}
    layouts = other.get(layout, ["contiguous", "channels_last"])
    return [[random_image(shape, dtype, layouts[i % 2]) for i, shape in enumerate(shapes)] for _ in range(2)]


def oracle(equalized, decoded, weights, distance, grad_loss) -> list[Tensor]:
    inputs = [leaf(f) for f in (*equalized, *decoded)]
    half = len(equalized)
    loss = reference.equalization_consistency_loss(
        inputs[:half], inputs[half:], scale_weights=weights, distance=distance
    )
    return [loss.detach(), *torch.autograd.grad(loss, inputs, grad_loss.to(loss.dtype))]


def kernels(consistency, equalized, decoded, weights, distance, grad_loss, seed=0) -> list[Tensor]:
    consistency.library.emulation_seed(seed)
    loss = consistency.forward(equalized, decoded, weights, distance)
    assert consistency.result == 0
    needs = [True] * (2 * len(equalized))
    grads = consistency.backward(grad_loss, equalized, decoded, weights, distance, needs)
    assert consistency.result == 0
    return [loss, *grads]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("distance", ["cosine", "l1", "l2"])
@pytest.mark.parametrize("shapes", SHAPES, ids=range(len(SHAPES)))
def test_matches_the_truth_as_well_as_plain_pytorch(consistency, shapes, distance, dtype):
    seed = seed_everything()
    for layout in ("contiguous", "channels_last", "mixed"):
        equalized, decoded = pyramids(shapes, dtype, layout)
        weights, grad_loss = torch.rand(len(shapes)).tolist(), torch.randn(())
        ours = kernels(consistency, equalized, decoded, weights, distance, grad_loss, seed)
        plain = oracle(equalized, decoded, weights, distance, grad_loss)
        wide = [[f.double() for f in features] for features in (equalized, decoded)]
        terms = cosine_terms(*wide, weights, float(grad_loss)) if distance == "cosine" else 0.0
        assert_as_accurate(ours, plain, oracle(*wide, weights, distance, grad_loss), dtype, terms)


@pytest.mark.parametrize("distance", ["cosine", "l1", "l2"])
def test_the_order_of_threads_and_blocks_does_not_matter(consistency, distance):
    seed_everything()
    features = pyramids(((2, 11, 6, 7), (1, 40, 3, 23)), torch.float32, "mixed")
    first, *others = [
        kernels(consistency, *features, [1.0, 0.5], distance, torch.tensor(2.0), seed) for seed in range(4)
    ]
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_of_one_channel_only_the_sign_counts(consistency):
    seed_everything()
    equalized, decoded = pyramids(((2, 1, 5, 9),), torch.float32, "contiguous")
    loss, *grads = kernels(consistency, equalized, decoded, [1.0], "cosine", torch.tensor(1.0))
    torch.testing.assert_close(loss, 2 * (equalized[0] * decoded[0] < 0).float().mean())
    assert all(g.abs().max() < 1e-5 for g in grads)


def test_zeros_and_tiny_vectors_are_those_of_torch(consistency):
    seed_everything()
    for layout in ("contiguous", "channels_last"):
        equalized, decoded = pyramids(((1, 6, 3, 5),), torch.float32, layout)
        equalized[0][:, :, 0, 0] = 0
        equalized[0][:, :, 1] *= 1e-9  # its norm is clamped
        decoded[0][:, :, 2, 2] = 0
        ours = kernels(consistency, equalized, decoded, [1.0], "cosine", torch.tensor(1.0))
        plain = oracle(equalized, decoded, [1.0], "cosine", torch.tensor(1.0))
        for value, expected in zip(ours, plain, strict=True):
            torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("distance", ["cosine", "l1", "l2"])
def test_nan_goes_no_further_than_the_maths(consistency, distance):
    equalized, decoded = pyramids(((1, 6, 3, 5),), torch.float32, "contiguous")
    equalized[0][0, 2, 1, 3] = torch.nan
    loss, grad, other = kernels(consistency, equalized, decoded, [1.0], distance, torch.tensor(1.0))
    expected = torch.zeros(6, 3, 5, dtype=torch.bool)
    expected[slice(None) if distance == "cosine" else 2, 1, 3] = True
    assert loss.isnan() and torch.equal(grad[0].isnan(), expected) and torch.equal(other[0].isnan(), expected)


@pytest.mark.parametrize("needed", range(4))
def test_only_what_is_asked_for_is_computed(consistency, needed):
    seed_everything()
    features = pyramids(((2, 5, 3, 4), (1, 2, 6, 6)), torch.float32, "mixed")
    _, *full = kernels(consistency, *features, [1.0, 1.0], "cosine", torch.tensor(1.0))
    needs = [i == needed for i in range(4)]
    found = consistency.backward(torch.tensor(1.0), *features, [1.0, 1.0], "cosine", needs)
    for one, value, need in zip(found, full, needs, strict=True):
        assert torch.equal(one, value) if need else one is None
