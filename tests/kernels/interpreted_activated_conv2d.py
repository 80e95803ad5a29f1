"""The Triton kernels of activated_conv2d in Triton's interpreter, against torch's own layers.

Collected by test_triton_interpreter.py alone, in a process that has TRITON_INTERPRET=1 from its start: bfloat16 is left
out, because the interpreter computes it wrongly, and tf32 is computed as float32 (both count only on a GPU).
"""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from numerics import as_one_vector, assert_as_accurate
from sampling import LAYOUTS, leaf, random_image, seed_everything

from pyeqgan import backends
from pyeqgan.functional import activated_conv2d
from pyeqgan.kernels import activated_conv2d as kernels

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::DeprecationWarning")
ACTIVATIONS = {None: lambda x, _: x, "relu": lambda x, _: F.relu(x), "tanh": lambda x, _: x.tanh()}
ACTIVATIONS["leaky_relu"] = F.leaky_relu
PADDING = {"zeros": "constant", "reflect": "reflect", "replicate": "replicate"}
# x, output channels, kernel, padding, mode, activation: more than a block of pixels (128) and channels (32); all or
# some of the pixels repeated by the padding, and more often than once; a kernel that is smaller than the padding.
CASES = (
    (torch.float32, (2, 3, 6, 7), 5, (3, 3), 1, "reflect", "leaky_relu"),
    (torch.float16, (1, 5, 17, 13), 3, (3, 3), 1, "reflect", "tanh"),
    (torch.float32, (1, 33, 2, 5), 37, (1, 3), 1, "reflect", "leaky_relu"),
    (torch.float16, (2, 3, 3, 4), 4, (3, 3), 1, "reflect", "relu"),
    (torch.float32, (1, 2, 6, 8), 3, (5, 2), 2, "reflect", "tanh"),
    (torch.float32, (1, 2, 4, 9), 3, (1, 2), 3, "reflect", None),
    (torch.float16, (2, 3, 5, 8), 3, (2, 1), 2, "replicate", "leaky_relu"),
    (torch.float32, (1, 2, 1, 1), 3, (2, 3), 1, "replicate", "tanh"),
    (torch.float32, (2, 4, 4, 9), 3, (2, 5), 3, "zeros", "leaky_relu"),
    (torch.float16, (2, 35, 5, 4), 34, (1, 1), 0, "zeros", "leaky_relu"),
)


@pytest.fixture(autouse=True)
def backend(monkeypatch):
    monkeypatch.setattr(kernels, "PROGRAMS", 1)  # each costs the interpreter time
    with backends.force("triton", "activated_conv2d"):
        yield


def plain(x, weight, bias=None, *, activation="leaky_relu", negative_slope=0.2, padding=1, padding_mode="reflect"):
    h = ACTIVATIONS[activation](x, negative_slope)
    return F.conv2d(F.pad(h, (padding,) * 4, mode=PADDING[padding_mode]), weight, bias)


def run(function, tensors, seed, **options):
    inputs = [leaf(t) for t in tensors]
    y = function(*inputs, **options)
    grad = torch.randn(y.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return [y.detach(), *torch.autograd.grad(y, inputs, grad.to(tensors[0].dtype).to(y.dtype))]


def problem(shape, features, kernel, dtype, layout="contiguous"):
    weight = torch.randn(features, shape[1], *kernel, dtype=torch.float64) / (shape[1] * math.prod(kernel)) ** 0.5
    return [random_image(shape, dtype, layout), weight.to(dtype), torch.randn(features, dtype=torch.float64).to(dtype)]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_matches_the_truth_as_well_as_plain_pytorch(case):
    seed = seed_everything()
    dtype, shape, features, kernel, padding, mode, activation = case
    tensors = problem(shape, features, kernel, dtype, LAYOUTS[CASES.index(case) % len(LAYOUTS)])
    options = {"padding": padding, "padding_mode": mode, "activation": activation}
    ours, layers = (run(f, tensors, seed, **options) for f in (activated_conv2d, plain))
    truth = run(plain, [t.double() for t in tensors], seed, **options)
    if math.prod(shape) < 8:
        ours, layers, truth = as_one_vector(ours, layers, truth)
    assert_as_accurate(ours, layers, truth, dtype)


def test_second_order_is_that_of_plain_pytorch():
    seed_everything()
    tensors = problem((1, 2, 4, 5), 3, (2, 3), torch.float32)

    def penalty(function, tensors):
        x, weight, bias = (leaf(t) for t in tensors)
        (grad,) = torch.autograd.grad(function(x, weight, bias).square().sum(), x, create_graph=True)
        return torch.autograd.grad(grad.square().sum(), (x, weight))

    truth = penalty(plain, [t.double() for t in tensors])
    assert_as_accurate(penalty(activated_conv2d, tensors), penalty(plain, tensors), truth, torch.float32)


def test_segments_of_the_pixels_are_added(monkeypatch):
    """The weight's gradient by several programs for each of its blocks, and by one."""
    seed_everything()
    x, weight, _ = problem((2, 3, 9, 17), 3, (3, 3), torch.float32)
    conv = kernels.Convolution(weight, "relu", 0.0, 1, "reflect")
    one = kernels.weight_gradient(x, x, conv, "ieee", "ieee")
    monkeypatch.setattr(kernels, "PROGRAMS", 3 * 9)
    torch.testing.assert_close(kernels.weight_gradient(x, x, conv, "ieee", "ieee"), one)


def test_only_what_is_asked_for_is_computed_in_the_memory_format_of_x():
    seed_everything()
    x, weight, bias = problem((1, 3, 4, 3), 5, (2, 2), torch.float32, "channels_last")
    options = ("leaky_relu", 0.2, 1, "reflect")
    y = kernels.forward(x, weight, bias, *options)
    every = kernels.backward(y, x, weight, *options, True, True, True)
    assert y.is_contiguous(memory_format=torch.channels_last) and every[0].stride() == x.stride()
    for only in range(3):
        needs = [i == only for i in range(3)]
        for grad, whole, needed in zip(kernels.backward(y, x, weight, *options, *needs), every, needs, strict=True):
            assert torch.equal(grad, whole) if needed else grad.shape == (0,)


@pytest.mark.parametrize("where", ["x", "weight", "grad"])
def test_nan_goes_no_further_than_its_neighbourhood(where):
    seed_everything()
    tensors = {"x": torch.randn(2, 3, 7, 6), "weight": torch.randn(4, 3, 3, 3), "grad": torch.randn(2, 4, 7, 6)}
    tensors[where][(1, 2, 2, 1) if where == "weight" else (1, 2, 3, 3)] = math.nan  # where reflection is no matter

    def both(function):
        x, weight = leaf(tensors["x"]), leaf(tensors["weight"])
        y = function(x, weight)
        y, grad_x, grad_weight = y.detach(), *torch.autograd.grad(y, (x, weight), tensors["grad"])
        return [y, grad_x[:, :, 2:] if where == "weight" else grad_x, grad_weight]

    for ours, expected in zip(both(activated_conv2d), both(plain), strict=True):
        assert torch.equal(ours.isnan(), expected.isnan())


def test_nothing_to_do():
    y, *grads = run(activated_conv2d, problem((0, 3, 4, 5), 5, (3, 3), torch.float32), 0, padding_mode="zeros")
    assert y.shape == (0, 5, 4, 5) and not any(g.any() for g in grads)


def test_float64_is_refused():
    with pytest.raises(TypeError, match="x: expected float32, bfloat16 or float16, got torch"):
        activated_conv2d(torch.zeros(1, 1, 2, 2).double(), torch.zeros(1, 1, 3, 3).double())


@pytest.mark.parametrize("axes", [(0, 2), (1, 3)])
def test_strides_beyond_two_to_the_31(axes, tmp_path, monkeypatch):
    """Small images, read and written, whose strides along two axes are larger than any int32, in a sparse file."""
    seed_everything()
    far, strides = 2**31 + 8, [512, 64, 8, 1]
    strides[axes[0]], strides[axes[1]] = far, 5 * far
    file = tmp_path / "sparse"
    flat = torch.from_file(str(file), shared=True, size=32 * far, dtype=torch.float16)
    file.unlink()
    places = itertools.count(0, 1024)

    def away(shape):
        return flat[next(places) :].as_strided(shape, strides)

    x, weight, _ = problem((2, 3, 5, 5), 3, (2, 2), torch.float16)
    grad, options = random_image((2, 3, 6, 6), torch.float16), ("relu", 0.0, 1, "reflect")

    def everything(x, grad):
        y = kernels.forward(x, weight, None, *options)
        return y, *kernels.backward(grad, x, weight, *options, True, True, False)

    near = everything(x, grad)
    monkeypatch.setattr(kernels, "empty_image", lambda x, c, *size: away((len(x), c, *(size or x.shape[2:]))))
    found = everything(away(x.shape).copy_(x), away(grad.shape).copy_(grad))
    assert found[0].stride() == found[1].stride() == tuple(strides)
    assert all(torch.equal(one, other) for one, other in zip(near, found, strict=True))
