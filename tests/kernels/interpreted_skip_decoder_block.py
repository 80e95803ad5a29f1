"""The Triton kernels of skip_decoder_block in Triton's interpreter, against torch's own layers.

Collected by test_triton_interpreter.py alone, in a process that has TRITON_INTERPRET=1 from its start: bfloat16 is left
out, because the interpreter computes it wrongly, and tf32 is computed as float32 (both count only on a GPU).
"""

from __future__ import annotations

import itertools

import plain
import pytest
import torch
from numerics import assert_as_accurate
from sampling import LAYOUTS, leaf, random_image, seed_everything

from pyeqgan import backends
from pyeqgan.functional import skip_decoder_block
from pyeqgan.kernels import skip_decoder_block as kernels
from pyeqgan.kernels._norm import Norm

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::DeprecationWarning")
NORMS = {
    "none": {},
    "batch": {"norm": "batch", "training": True},
    "given": {"norm": "batch", "training": False},
    "instance": {"norm": "instance"},
}
# x, output channels, join, norm, activation: one row, more than a block of pixels (128) and channels (32).
# Behind a norm nothing has a kink: rounding moves values across it, and chance says whose count for more.
CASES = (
    (torch.float32, (1, 2, 1, 2), 5, "after", "none", "leaky_relu"),
    (torch.float16, (2, 3, 1, 5), 5, "before", "instance", "tanh"),
    (torch.float32, (1, 33, 3, 5), 37, "none", "given", None),
    (torch.float32, (2, 3, 12, 13), 4, "none", "batch", "tanh"),
    (torch.float16, (2, 4, 4, 3), 5, "after", "batch", "tanh"),
    (torch.float32, (1, 4, 9, 17), 3, "before", "instance", "tanh"),
)


@pytest.fixture(autouse=True)
def backend(monkeypatch):
    monkeypatch.setattr(kernels, "PROGRAMS", 1)  # each costs the interpreter time
    with backends.force("triton", "skip_decoder_block"):
        yield


def problem(shape, features, join, norm, dtype, layout="contiguous"):
    """The tensors, the running statistics (if any) and the norm's options."""
    batch, channels, height, width = shape
    factor = 2 if join == "after" else 1
    skip = None if join == "none" else random_image((batch, 4, factor * height, factor * width), dtype, layout)
    total = channels + (0 if skip is None else 4)

    def parameter(*sizes):
        return torch.randn(sizes, dtype=torch.float64)

    affine = (None, None) if norm == "none" else (parameter(features).to(dtype), parameter(features).to(dtype))
    weight = (parameter(features, total, 3, 3) / (9 * total) ** 0.5).to(dtype)
    tensors = [random_image(shape, dtype, layout), skip, weight, parameter(features).to(dtype), *affine]
    running = [parameter(features).to(dtype), (parameter(features).square() + 0.5).to(dtype)]
    return tensors, running if norm in ("batch", "given") else [None, None], NORMS[norm]


def results(function, tensors, running, seed, **options):
    """The result, the running statistics after it and all gradients."""
    inputs = [None if t is None else leaf(t) for t in tensors]
    x, skip, weight, bias, norm_weight, norm_bias = inputs
    mean, var = (None if r is None else r.clone() for r in running)
    y = function(
        x,
        skip,
        weight,
        bias,
        norm_weight=norm_weight,
        norm_bias=norm_bias,
        running_mean=mean,
        running_var=var,
        **options,
    )
    upstream = torch.randn(y.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    wanted = [t for t in inputs if t is not None]
    grads = torch.autograd.grad(y, wanted, upstream.to(tensors[0].dtype).to(y.dtype))
    return [y.detach(), mean, var], grads


@pytest.mark.parametrize("case", CASES, ids=str)
def test_matches_the_truth_as_well_as_plain_pytorch(case):
    seed = seed_everything()
    dtype, *sizes, activation = case
    tensors, running, options = problem(*sizes, dtype, LAYOUTS[CASES.index(case) % len(LAYOUTS)])
    exact = [None if t is None else t.double() for t in tensors], [None if r is None else r.double() for r in running]
    options = options | {"activation": activation}
    ours, layers, truth = (
        results(f, *arguments, seed, **options)
        for f, *arguments in (
            (skip_decoder_block, tensors, running),
            (plain.skip_decoder_block, tensors, running),
            (plain.skip_decoder_block, *exact),
        )
    )
    assert_as_accurate(ours[0], layers[0], truth[0], dtype)
    # One vector of them: a bias before a norm by the batch's own statistics has a gradient of noise.
    joined = [torch.cat([g.double().flatten() for g in grads]) for _, grads in (ours, layers, truth)]
    assert_as_accurate(joined[:1], joined[1:2], joined[2:], dtype)


def test_segments_of_the_pixels_are_added(monkeypatch):
    """The weight's gradient by several programs for each of its blocks, and by one."""
    seed_everything()
    (x, *_), _, _ = problem((2, 3, 9, 17), 3, "none", "none", torch.float32)
    grad, source = torch.randn(2, 3, 18, 34), kernels._Source(x, False, torch.empty(3, 3, 3, 3))
    one = kernels._weight_gradient(grad, source, x, "ieee", "ieee")
    monkeypatch.setattr(kernels, "PROGRAMS", 3 * 16)
    torch.testing.assert_close(kernels._weight_gradient(grad, source, x, "ieee", "ieee"), one)


def test_only_what_is_asked_for_is_computed_in_the_memory_format_of_its_input():
    seed_everything()
    (x, skip, weight, bias, *affine), _, _ = problem(
        (1, 3, 2, 3), 5, "before", "instance", torch.float32, "channels_last"
    )
    numbers = (False, 1e-5, "relu", 0.0)
    _, pre, mean, var = kernels.forward(x, skip, weight, bias, "instance", *affine, None, None, *numbers)
    assert pre.is_contiguous(memory_format=torch.channels_last)
    arguments = (torch.randn(1, 5, 4, 6), x, skip, weight, bias, "instance", *affine, pre, mean, var, *numbers)
    every = kernels.backward(*arguments, *[True] * 6)
    for grad, like in zip(every, (x, skip, weight, bias, *affine), strict=True):
        assert grad.shape == like.shape and grad.stride() == like.stride()
    for needs in ([i % 2 == odd for i in range(6)] for odd in (0, 1)):
        for grad, whole, needed in zip(kernels.backward(*arguments, *needs), every, needs, strict=True):
            assert torch.equal(grad, whole) if needed else grad.shape == (0,)


def test_nothing_to_do():
    for join, norm in itertools.product(("none", "after"), ("none", "given")):
        tensors, running, options = problem((0, 3, 4, 5), 5, join, norm, torch.float32)
        (y, _, _), grads = results(skip_decoder_block, tensors, running, 0, **options)
        assert y.shape == (0, 5, 8, 10) and not any(g.any() for g in grads)


def test_float64_is_refused():
    with pytest.raises(TypeError, match="x: expected float32, bfloat16 or float16, got torch"):
        skip_decoder_block(torch.zeros(1, 1, 2, 2).double(), None, torch.zeros(1, 1, 3, 3).double())


@pytest.mark.parametrize("axes", [(0, 2), (1, 3)])
def test_strides_beyond_two_to_the_31(axes, tmp_path, monkeypatch):
    """Small images, read and written, whose strides along two axes are larger than any int32, in a sparse file."""
    seed_everything()
    far, strides = 2**31 + 8, [512, 64, 8, 1]
    strides[axes[0]], strides[axes[1]] = far, 3 * far
    file = tmp_path / "sparse"
    flat = torch.from_file(str(file), shared=True, size=12 * far, dtype=torch.float16)
    file.unlink()
    places = itertools.count(0, 1024)

    def away(shape):
        return flat[next(places) :].as_strided(shape, strides)

    (x, _, weight, *_), _, _ = problem((2, 3, 2, 2), 3, "none", "none", torch.float16)
    grad_y = random_image((2, 3, 4, 4), torch.float16)

    def everything(x, grad_y):
        source, none = kernels._Source(x, False, weight), (None,) * 6
        y, *_ = kernels.forward(x, None, weight, *none, False, 1e-5, "relu", 0.2)
        grad, *_ = Norm(*none[:3], y, y, False, 1e-5, "relu", 0.2).gradients(grad_y, y)
        grad_x = kernels._input_gradient(grad_y, source, "half", "ieee")
        return y, grad, grad_x, kernels._weight_gradient(grad_y, source, x, "half", "ieee")

    near = everything(x, grad_y)
    monkeypatch.setattr(kernels, "empty_image", lambda x, c, *size: away((len(x), c, *(size or x.shape[2:]))))
    found = everything(away(x.shape).copy_(x), away(grad_y.shape).copy_(grad_y))
    assert found[0].stride() == found[2].stride() == tuple(strides)
    assert all(torch.equal(one, other) for one, other in zip(near, found, strict=True))
