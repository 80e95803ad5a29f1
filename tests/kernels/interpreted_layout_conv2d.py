"""The Triton kernels of layout_conv2d in Triton's interpreter, against torch's convolution of the one-hot layout.

Collected by test_triton_interpreter.py alone, in a process that has TRITON_INTERPRET=1 from its start: bfloat16 is left
out, because the interpreter computes it wrongly, and tf32 is computed as float32 (both count only on a GPU).
"""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from numerics import assert_as_accurate
from sampling import LAYOUTS, leaf, random_image, seed_everything

from pyeqgan import backends, reference
from pyeqgan.functional import layout_conv2d
from pyeqgan.kernels import layout_conv2d as kernels

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::DeprecationWarning")
# Labels (B,H,W), weight (Co,Nc,kh,kw), stride, padding, activation, programs wanted: off a block of pixels (128), of
# channels (32) and of classes (16), one class short of it (the bias is the next), one pixel, padding without a map.
CASES = (
    (torch.float32, (2, 6, 7), (5, 4, 3, 3), 1, 1, "leaky_relu", 1),
    (torch.float16, (1, 12, 13), (33, 16, 3, 3), 1, 1, "relu", 512),
    (torch.float32, (2, 15, 17), (3, 35, 3, 2), 1, 0, None, 12),
    (torch.float16, (1, 19, 18), (34, 15, 4, 4), 2, 1, None, 512),
    (torch.float32, (2, 9, 8), (7, 7, 4, 4), 2, 2, "tanh", 512),
    (torch.float32, (1, 4, 9), (3, 2, 2, 1), 3, 3, "relu", 1),
    (torch.float16, (1, 1, 1), (1, 1, 1, 1), 1, 0, "leaky_relu", 1),
    (torch.float32, (2, 0, 3), (4, 3, 3, 3), 1, 2, "leaky_relu", 1),
)


@pytest.fixture(autouse=True)
def backend(monkeypatch):
    monkeypatch.setattr(kernels, "PROGRAMS", 1)  # each costs the interpreter time
    with backends.force("triton", "layout_conv2d"):
        yield


def plain(labels, weight, bias=None, *, ignore_index=-1, activation=None, padding=0, stride=1):
    x = F.pad(reference.one_hot(labels, weight.shape[1], ignore_index, weight.dtype), (padding,) * 4)
    y = F.conv2d(x, weight, bias, stride)
    return {None: lambda t: t, "relu": F.relu, "tanh": torch.tanh}.get(activation, lambda t: F.leaky_relu(t, 0.2))(y)


def problem(shape, kernel, dtype, layout="contiguous", *, smooth=False):
    """Labels in areas and, in the lower half, pixel by pixel; weight and bias of results away from 0, or the slope
    would be a matter of rounding; ``smooth``: small ones, for a slope that is not what rounding leaves of 1 − y²."""
    batch, height, width = shape
    coarse = torch.randint(-1, kernel[1], (batch, height // 3 + 1, width // 3 + 1))
    labels = coarse.repeat_interleave(3, 1).repeat_interleave(3, 2)[:, :height, :width].clone()
    labels[:, height // 2 :] = torch.randint(-1, kernel[1], (batch, height - height // 2, width))
    weight, bias = random_image(kernel, dtype, layout), torch.rand(kernel[0], dtype=torch.float64).to(dtype) + 0.5
    if smooth:
        return labels, weight / (4 * kernel[2] * kernel[3]) ** 0.5, bias / 4
    sign = torch.randint(0, 2, (kernel[0], 1, 1, 1), dtype=dtype) * 2 - 1
    return labels, (weight.abs() + 0.1) * sign, bias * sign.flatten()


def run(function, labels, weight, bias, seed, layout="contiguous", **options):
    inputs = [leaf(t) for t in (weight, bias) if t is not None]
    y = function(labels, *inputs, **options)
    grad = torch.randn(y.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed + 1))
    if layout == "channels_last":
        grad = grad.contiguous(memory_format=torch.channels_last)
    return [y.detach(), *torch.autograd.grad(y, inputs, grad.to(weight.dtype))]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_matches_the_truth_as_well_as_plain_pytorch(case, monkeypatch):
    seed = seed_everything()
    dtype, shape, kernel, stride, padding, activation, programs = case
    monkeypatch.setattr(kernels, "PROGRAMS", programs)
    layout = LAYOUTS[CASES.index(case) % 3]
    labels, weight, bias = problem(shape, kernel, dtype, layout, smooth=activation == "tanh")
    options = {"stride": stride, "padding": padding, "activation": activation}
    for given in (bias, None):
        ours, layers = (run(f, labels, weight, given, seed, layout, **options) for f in (layout_conv2d, plain))
        exact = weight.double(), None if given is None else given.double()
        truth = run(plain, labels, *exact, seed, layout, **options)
        assert_as_accurate(ours, layers, truth, dtype)
        assert ours[0].is_contiguous(memory_format=torch._prims_common.suggest_memory_format(weight))


def test_second_order_is_that_of_plain_pytorch():
    seed_everything()
    labels, weight, bias = problem((1, 5, 6), (3, 4, 2, 3), torch.float32, smooth=True)

    def penalty(function, weight, bias):
        weight, bias = leaf(weight), leaf(bias)
        y = function(labels, weight, bias, activation="tanh", stride=2, padding=1)
        grads = torch.autograd.grad(y.square().sum(), (weight, bias), create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in grads), (weight, bias))

    truth = penalty(plain, weight.double(), bias.double())
    assert_as_accurate(penalty(layout_conv2d, weight, bias), penalty(plain, weight, bias), truth, torch.float32)


@pytest.mark.parametrize("ignored", [2, -(2**63), 2**63 - 1])
def test_any_integer_may_be_ignored_also_a_class(ignored):
    seed = seed_everything()
    labels, weight, _ = problem((2, 5, 6), (3, 4, 3, 3), torch.float32)
    options, marked = {"padding": 1, "ignore_index": ignored}, labels.masked_fill((labels == 2) | (labels < 0), ignored)
    ours, layers = (run(f, marked, weight, None, seed, **options) for f in (layout_conv2d, plain))
    truth = run(plain, marked, weight.double(), None, seed, **options)
    assert_as_accurate(ours, layers, truth, torch.float32)
    assert not ours[1][:, 2].any()


def test_labels_of_any_strides():
    seed = seed_everything()
    labels, weight, bias = problem((2, 5, 6), (3, 4, 3, 3), torch.float32)
    expected = run(layout_conv2d, labels, weight, bias, seed)
    wide = torch.full((2, 6, 12), 3)
    wide[:, 1:, ::2] = labels
    for other in (wide[:, 1:, ::2], labels.mT.contiguous().mT):
        assert all(
            torch.equal(a, b) for a, b in zip(run(layout_conv2d, other, weight, bias, seed), expected, strict=True)
        )


def test_a_gradient_of_ones_counts_the_pixels():
    seed_everything()
    labels, weight, bias = problem((2, 9, 11), (3, 20, 3, 3), torch.float32)
    labels = torch.stack([labels[0] % 16, labels[1] % 4 + 16])  # no block of pixels has classes of both tiles
    weight, bias = leaf(weight), leaf(bias)
    grads = torch.autograd.grad(layout_conv2d(labels, weight, bias).sum(), (weight, bias))
    counts = [[[(labels[:, i : i + 7, j : j + 9] == n).sum() for j in range(3)] for i in range(3)] for n in range(20)]
    assert torch.equal(grads[0], torch.tensor(counts, dtype=torch.float32).expand(3, 20, 3, 3))
    assert torch.equal(grads[1], torch.full((3,), 2.0 * 7 * 9))


@pytest.mark.parametrize("activation", [None, "tanh"])
def test_only_what_is_asked_for_is_computed(activation):
    seed_everything()
    labels, weight, bias = problem((2, 5, 6), (3, 4, 3, 3), torch.float32, "channels_last")
    options = (1, 1, -1, activation, 0.2)
    y = kernels.forward(labels, weight, bias, *options)
    arguments = (torch.randn_like(y), None if activation is None else y, labels, 4, [3, 3], *options)
    every = kernels.backward(*arguments, True, True)
    assert every[0].shape == weight.shape and every[0].is_contiguous() and every[1].shape == bias.shape
    for needs in itertools.product((False, True), repeat=2):
        for grad, whole, needed in zip(kernels.backward(*arguments, *needs), every, needs, strict=True):
            assert torch.equal(grad, whole) if needed else grad.shape == (0,)


def test_nothing_to_do():
    y, *grads = run(layout_conv2d, *problem((0, 4, 5), (5, 3, 3, 3), torch.float32), 0)
    assert y.shape == (0, 5, 2, 3) and not any(g.any() for g in grads)


def test_float64_is_refused():
    with pytest.raises(TypeError, match="weight: expected float32, bfloat16 or float16, got torch"):
        layout_conv2d(torch.zeros(1, 2, 2, dtype=torch.int64), torch.zeros(1, 1, 1, 1).double())


@pytest.mark.parametrize("axes", [(0, 2), (1, 3)])
def test_strides_beyond_two_to_the_31(axes, tmp_path):
    """Small labels, results and gradients whose strides along two axes are larger than any int32, in a sparse file."""
    seed_everything()
    far, strides = 2**31 + 8, [512, 64, 8, 1]
    strides[axes[0]], strides[axes[1]] = far, 5 * far
    file = tmp_path / "sparse"
    flat = torch.from_file(str(file), shared=True, size=64 * far, dtype=torch.int64)
    file.unlink()
    halves = flat.view(torch.float16)
    labels, weight, bias = problem((2, 5, 6), (3, 4, 3, 3), torch.float16)
    options = (1, 0, -1, "leaky_relu", 0.2)
    y = kernels.forward(labels, weight, bias, *options)
    grad = random_image(y.shape, torch.float16)
    expected = kernels.backward(grad, y, labels, 4, [3, 3], *options, True, True)
    far_labels = flat.as_strided(labels.shape, [s for i, s in enumerate(strides) if i != 1]).copy_(labels)
    assert torch.equal(kernels.forward(far_labels, weight, bias, *options), y)
    far_y, far_grad = (halves[2048 * i :].as_strided(y.shape, strides).copy_(t) for i, t in ((2, y), (4, grad)))
    found = kernels.backward(far_grad, far_y, far_labels, 4, [3, 3], *options, True, True)
    assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))
