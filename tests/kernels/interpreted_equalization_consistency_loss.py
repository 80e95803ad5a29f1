"""The Triton kernels of equalization_consistency_loss in Triton's interpreter, against the oracle.

Collected by test_triton_interpreter.py alone, in a process that has TRITON_INTERPRET=1 from its start: bfloat16 is left
out, because the interpreter computes it wrongly (it counts only on a GPU).
"""

from __future__ import annotations

import pytest
import torch
from numerics import assert_as_accurate, cosine_terms
from sampling import LAYOUTS, leaf, random_image, seed_everything

from pyeqgan import backends, reference
from pyeqgan.functional import equalization_consistency_loss
from pyeqgan.kernels import equalization_consistency_loss as kernels

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::DeprecationWarning")

# Off 16 channels and 256 pixels by one; an empty scale, one pixel, no channel.
SHAPES = (
    ((2, 3, 4, 5),),
    ((1, 2, 1, 1), (2, 33, 3, 11), (0, 3, 4, 4)),
    ((1, 17, 37, 7), (1, 0, 2, 2), (1, 9, 5, 13)),
)


@pytest.fixture(autouse=True)
def backend():
    with backends.force("triton", "equalization_consistency_loss"):
        yield


def pyramids(shapes, dtype, first=0):
    """Equalized and decoded features, each in another layout."""
    layouts = [LAYOUTS[(first + i) % len(LAYOUTS)] for i in range(2 * len(shapes))]
    images = [random_image(shape, dtype, layout) for shape, layout in zip(shapes * 2, layouts, strict=True)]
    return images[: len(shapes)], images[len(shapes) :]


def run(function, equalized, decoded, grad=1.0, **options):
    """The loss and all gradients."""
    inputs = [leaf(f) for f in (*equalized, *decoded)]
    loss = function(inputs[: len(equalized)], inputs[len(equalized) :], **options)
    return [loss.detach(), *torch.autograd.grad(loss, inputs, torch.tensor(grad, dtype=loss.dtype))]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("distance", ["cosine", "l1", "l2"])
@pytest.mark.parametrize("shapes", SHAPES, ids=range(len(SHAPES)))
def test_matches_the_truth_as_well_as_plain_pytorch(shapes, distance, dtype):
    seed_everything()
    equalized, decoded = pyramids(shapes, dtype, SHAPES.index(shapes) + 3 * (dtype == torch.float16))
    options = {"scale_weights": [0.5 + i for i in range(len(shapes))], "distance": distance}
    ours = run(equalization_consistency_loss, equalized, decoded, -1.7, **options)
    plain = run(reference.equalization_consistency_loss, equalized, decoded, -1.7, **options)
    wide = [[f.double() for f in features] for features in (equalized, decoded)]
    truth = run(reference.equalization_consistency_loss, *wide, -1.7, **options)
    terms = cosine_terms(*wide, options["scale_weights"], -1.7) if distance == "cosine" else 0.0
    assert_as_accurate(ours, plain, truth, dtype, terms)
    assert ours[0].dtype == torch.float32
    for grad, image in zip(ours[1:], (*equalized, *decoded), strict=True):
        assert grad.is_contiguous(memory_format=torch._prims_common.suggest_memory_format(image))


def test_of_one_channel_only_the_sign_counts():
    seed_everything()
    equalized, decoded = pyramids(((2, 1, 5, 9),), torch.float32)
    loss, *grads = run(equalization_consistency_loss, equalized, decoded)
    torch.testing.assert_close(loss, 2 * (equalized[0] * decoded[0] < 0).float().mean())
    # Each gradient is 1/(M·|f|) times a difference that is zero but for rounding: |f| may be small, not the relation.
    for grad, feature in zip(grads, (*equalized, *decoded), strict=True):
        assert (grad * feature).abs().max() < 1e-6 / feature.numel()


def test_zeros_and_tiny_vectors_are_those_of_torch():
    seed_everything()
    equalized, decoded = pyramids(((1, 6, 3, 5),), torch.float32)
    equalized[0][:, :, 0, 0] = 0
    equalized[0][:, :, 1] *= 1e-9  # its norm is clamped
    decoded[0][:, :, 2, 2] = 0
    ours = run(equalization_consistency_loss, equalized, decoded)
    plain = run(reference.equalization_consistency_loss, equalized, decoded)
    for value, expected in zip(ours, plain, strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("distance", ["cosine", "l1", "l2"])
def test_nan_goes_no_further_than_the_maths(distance):
    equalized, decoded = pyramids(((1, 6, 3, 5),), torch.float32)
    equalized[0][0, 2, 1, 3] = torch.nan
    loss, grad, other = run(equalization_consistency_loss, equalized, decoded, distance=distance)
    expected = torch.zeros(6, 3, 5, dtype=torch.bool)
    expected[slice(None) if distance == "cosine" else 2, 1, 3] = True
    assert loss.isnan() and torch.equal(grad[0].isnan(), expected) and torch.equal(other[0].isnan(), expected)


@pytest.mark.parametrize("needed", range(4))
def test_only_what_is_asked_for_is_computed(needed):
    seed_everything()
    features = pyramids(((2, 5, 3, 4), (1, 2, 6, 6)), torch.float32)
    _, *full = run(equalization_consistency_loss, *features)
    needs = [i == needed for i in range(4)]
    found = kernels.backward(torch.tensor(1.0), *features, [1.0, 1.0], "cosine", needs[:2], needs[2:])
    for one, value, need in zip(found, full, needs, strict=True):
        assert torch.equal(one, value) if need else one.shape == (0,)


def test_nothing_to_do():
    loss, *grads = run(equalization_consistency_loss, *pyramids(((0, 3, 4, 5),), torch.float32))
    assert loss == 0 and all(g.shape == (0, 3, 4, 5) for g in grads)


def test_float64_is_refused():
    with pytest.raises(TypeError, match=r"equalized\[0\]: expected float32, bfloat16 or float16, got torch"):
        equalization_consistency_loss([torch.zeros(1, 1, 2, 2).double()], [torch.zeros(1, 1, 2, 2).double()])


@pytest.mark.parametrize("axes", [(0, 2), (1, 3)])
def test_strides_beyond_two_to_the_31(axes, tmp_path, monkeypatch):
    """Small images, read and written, whose strides along two axes are larger than any int32, in a sparse file."""
    seed_everything()
    far, strides = 2**31 + 8, [512, 64, 8, 1]
    strides[axes[0]], strides[axes[1]] = far, 3 * far
    file = tmp_path / "sparse"
    flat = torch.from_file(str(file), shared=True, size=12 * far, dtype=torch.float16)
    file.unlink()
    near = [random_image((2, 3, 2, 3), torch.float16) for _ in range(2)]
    away = [flat[1024 * i :].as_strided(f.shape, strides).copy_(f) for i, f in enumerate(near)]

    def everything(e, d):
        grads = kernels.backward(torch.tensor(1.0), [e], [d], [1.0], "cosine", [True], [True])
        return [kernels.forward([e], [d], [1.0], "cosine"), *grads]

    expected, places = everything(*near), iter((4096, 8192))
    monkeypatch.setattr(kernels, "empty_image", lambda x, _: flat[next(places) :].as_strided(x.shape, strides))
    found = everything(*away)
    assert found[1].stride() == tuple(strides)
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
