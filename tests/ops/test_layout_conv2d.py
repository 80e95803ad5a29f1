"""layout_conv2d against torch's convolution of the one-hot layout, for every kernel, stride, activation and dtype."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from numerics import (
    KINKED,
    as_one_vector,
    assert_as_accurate,
    assert_gradients_of_both_orders,
    off_the_kink,
    saved_bytes,
)
from sampling import DTYPES, LAYOUTS, leaf, random_image, seed_everything

from pyeqgan import backends, nn
from pyeqgan.functional import layout_conv2d

OP = torch.ops.pyeqgan.layout_conv2d.default
BACKWARD = torch.ops.pyeqgan.layout_conv2d_backward.default
ACTIVATIONS = (None, "relu", "leaky_relu", "tanh")

# Labels (B,H,W), weight (Co,Nc,kh,kw), stride, padding: one pixel, one class, no padding and more than the kernel's,
# channels just off a panel, strides beyond the kernel, an empty batch.
PROBLEMS = (
    ((2, 6, 7), (5, 4, 3, 3), 1, 1),
    ((1, 1, 1), (1, 1, 1, 1), 1, 0),
    ((2, 9, 8), (33, 7, 4, 4), 2, 1),
    ((1, 5, 11), (16, 3, 1, 3), 1, 0),
    ((3, 7, 5), (65, 182, 3, 3), 1, 1),
    ((1, 4, 9), (3, 2, 2, 1), 3, 3),
    ((0, 4, 4), (4, 3, 3, 3), 1, 1),
    ((2, 8, 8), (32, 6, 5, 5), 2, 2),
)


@pytest.fixture(params=["native", "reference"], autouse=True)
def backend(request):
    """Every test runs on the kernel and on the oracle that stands in for it."""
    with backends.force(request.param, "layout_conv2d"):
        yield request.param


@pytest.fixture
def native(backend):
    if backend != "native":
        pytest.skip("the kernel's promise: the oracle multiplies by the zeros of a one-hot tensor")


def definition(labels, weight, bias=None, *, stride=1, padding=0, ignore_index=-1, activation=None, slope=0.2):
    """torch's own convolution, of rows of the identity."""
    rows = torch.cat([torch.eye(weight.shape[1]), torch.zeros(1, weight.shape[1])]).to(weight.dtype)
    x = rows[labels.masked_fill(labels == ignore_index, -1)].permute(0, 3, 1, 2)
    y = F.conv2d(x, weight, bias, stride, padding)
    functions = {None: lambda t: t, "relu": F.relu, "tanh": torch.tanh, "leaky_relu": lambda t: F.leaky_relu(t, slope)}
    return functions[activation](y)


def areas(shape, classes, ignored=True):
    """Labels in areas and, in the lower half, pixel by pixel."""
    batch, height, width = shape
    low = -1 if ignored else 0
    coarse = torch.randint(low, classes, (batch, height // 3 + 1, width // 3 + 1))
    labels = coarse.repeat_interleave(3, 1).repeat_interleave(3, 2)[:, :height, :width].clone()
    labels[:, height // 2 :] = torch.randint(low, classes, (batch, height - height // 2, width))
    return labels


def run(function, labels, weight, bias, grad, **options):
    inputs = [leaf(t) for t in (weight, bias) if t is not None]
    y = function(labels, *inputs, **options)
    return [y, *torch.autograd.grad(y, inputs, grad.to(y.dtype))]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_matches_the_truth_as_well_as_plain_pytorch(problem, dtype):
    seed_everything()
    shape, kernel, stride, padding = problem
    # At half precision 1 − y² of a few saturated values is a matter of luck; test_every_operation takes many.
    activations = itertools.cycle(ACTIVATIONS if dtype.itemsize > 2 else (None, "relu", "leaky_relu"))
    for layout, with_bias in itertools.product(LAYOUTS, (False, True)):
        options = {"stride": stride, "padding": padding, "activation": next(activations)}
        labels = areas(shape, kernel[1])
        weight = random_image(kernel, dtype, layout)
        bias = torch.randn(kernel[0], dtype=torch.float64).to(dtype) if with_bias else None
        double = [None if t is None else t.double() for t in (weight, bias)]
        linear = definition(labels, *double, **{**options, "activation": None})
        grad = random_image(linear.shape, dtype, layout)
        if options["activation"] in KINKED:
            grad = grad * off_the_kink(linear, dtype)
        ours = run(layout_conv2d, labels, weight, bias, grad, **options)
        plain = run(definition, labels, weight, bias, grad, **options)
        double.append(grad.double())
        truth = run(definition, labels, *double, **options)
        if weight.numel() == 1:
            ours, plain, truth = as_one_vector(ours, plain, truth)
        assert_as_accurate(ours, plain, truth, dtype)


def test_any_integer_may_be_ignored_also_a_class():
    seed_everything()
    labels, weight = torch.randint(0, 4, (2, 5, 6)), torch.randn(3, 4, 3, 3)
    expected = definition(labels, weight, ignore_index=2)
    torch.testing.assert_close(layout_conv2d(labels, weight, ignore_index=2), expected)
    for ignored in (255, -(2**63), 2**63 - 1):
        marked = labels.masked_fill(labels == 2, ignored)
        torch.testing.assert_close(layout_conv2d(marked, weight, ignore_index=ignored), expected)
    nothing = layout_conv2d(torch.full((1, 5, 6), -1), weight, torch.arange(3.0))
    assert torch.equal(nothing, torch.arange(3.0)[:, None, None].expand(1, 3, 3, 4))


def test_labels_of_any_strides():
    seed_everything()
    labels, weight = torch.randint(-1, 4, (2, 5, 6)), torch.randn(3, 4, 3, 3)
    expected = layout_conv2d(labels, weight)
    wide = torch.full((2, 6, 12), 99)
    wide[:, 1:, ::2] = labels
    for other in (wide[:, 1:, ::2], labels.mT.contiguous().mT):
        assert torch.equal(layout_conv2d(other, weight), expected)
    row = labels[:1, :1].expand(2, 5, 6)
    assert torch.equal(layout_conv2d(row, weight), layout_conv2d(row.contiguous(), weight))


def test_a_large_map_keeps_its_precision(native):
    """Many parts, each of many runs: the gradient of a constant is a count."""
    labels = torch.zeros(3, 300, 400, dtype=torch.int64)
    weight, bias = torch.zeros(33, 2, 3, 3), torch.zeros(33)
    grads = run(layout_conv2d, labels, weight, bias, torch.ones(3, 33, 298, 398))[1:]
    count = 3 * 298 * 398
    torch.testing.assert_close(grads[0][:, 0], torch.full((33, 3, 3), float(count)), rtol=1e-6, atol=0)
    torch.testing.assert_close(grads[1], torch.full((33,), float(count)), rtol=1e-6, atol=0)
    assert not grads[0][:, 1].any()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients_of_both_orders(activation):
    seed_everything()
    labels = torch.randint(-1, 3, (2, 5, 4))
    weight, bias = leaf(torch.randn(2, 3, 3, 3).double()), leaf(torch.randn(2).double())

    def run(*inputs):
        return layout_conv2d(labels, *inputs, stride=2, padding=1, activation=activation)

    for inputs in ((weight,), (weight, bias), (weight.detach(), bias), (weight, bias.detach())):
        assert_gradients_of_both_orders(run, inputs)


def test_a_third_derivative():
    seed_everything()
    labels, weight = torch.randint(-1, 3, (1, 4, 4)), leaf(torch.randn(2, 3, 3, 3).double())

    def gradient(weight):
        y = layout_conv2d(labels, weight, activation="tanh")
        return torch.autograd.grad(y.square().sum(), weight, create_graph=True)[0]

    assert torch.autograd.gradgradcheck(gradient, (weight,), fast_mode=True)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "sliced"])
def test_opcheck(layout, backend):
    """Schema, fake (shape, dtype, strides) and autograd registration, forward and backward, static and dynamic."""
    if backend == "reference" and layout != "channels_last":
        pytest.skip("one layout tells whether the oracle's results are laid out as the fake says; opcheck is slow")
    seed_everything()
    labels, weight = torch.randint(-1, 3, (2, 5, 4)), leaf(random_image((4, 3, 3, 3), torch.float32, layout))
    bias = torch.randn(4, requires_grad=True)
    options = (2, 1, -1, "tanh", 0.2)
    torch.library.opcheck(OP, (labels, weight, bias, *options))
    y = OP(labels, weight.detach(), bias.detach(), *options)
    grad = leaf(random_image(y.shape, torch.float32, layout))
    torch.library.opcheck(BACKWARD, (grad, leaf(y), labels, 3, (3, 3), *options, True, True))
    linear = (2, 1, -1, None, 0.2)
    torch.library.opcheck(BACKWARD, (grad.detach(), None, labels, 3, (3, 3), *linear, True, False))


def test_output_has_the_memory_format_of_the_weight():
    labels = torch.zeros(2, 5, 6, dtype=torch.int64)
    weight = torch.randn(8, 3, 3, 3)
    assert layout_conv2d(labels, weight).is_contiguous()
    y = layout_conv2d(labels, weight.contiguous(memory_format=torch.channels_last))
    assert y.is_contiguous(memory_format=torch.channels_last)


def test_saves_the_labels_and_with_an_activation_the_result():
    labels = torch.zeros(2, 6, 7, dtype=torch.int64)
    weight, bias = torch.randn(4, 3, 3, 3, requires_grad=True), torch.randn(4, requires_grad=True)
    assert saved_bytes(lambda: layout_conv2d(labels, weight, bias, padding=1)) == 8 * labels.numel()
    with_y = 8 * labels.numel() + 4 * 2 * 4 * 6 * 7
    assert saved_bytes(lambda: layout_conv2d(labels, weight, bias, padding=1, activation="relu")) == with_y


def test_only_the_gradients_asked_for_are_computed():
    seed_everything()
    labels, grad = torch.randint(-1, 3, (2, 5, 4)), torch.randn(2, 4, 3, 2)
    every = BACKWARD(grad, None, labels, 3, (3, 3), 1, 0, -1, None, 0.2, True, True)
    for needs in itertools.product((False, True), repeat=2):
        found = BACKWARD(grad, None, labels, 3, (3, 3), 1, 0, -1, None, 0.2, *needs)
        for each, whole, needed in zip(found, every, needs, strict=True):
            assert torch.equal(each, whole) if needed else each.shape == (0,)


def test_result_does_not_depend_on_the_number_of_threads(native):
    seed_everything()
    labels, weight, bias = areas((3, 61, 67), 5), torch.randn(37, 5, 3, 3), torch.randn(37)
    grad = torch.randn(3, 37, 59, 65)
    threads = torch.get_num_threads()
    try:
        results = []
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            results.append(run(layout_conv2d, labels, weight, bias, grad, activation="leaky_relu"))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_nan_stays_where_the_maths_puts_it(activation, native):
    labels = torch.zeros(1, 9, 9, dtype=torch.int64)
    labels[0, 4, 4] = 1
    weight = torch.randn(2, 2, 3, 3)
    weight[1, 1] = math.nan  # of the one pixel of class 1, in one channel
    y, _ = run(layout_conv2d, labels, weight, None, torch.ones(1, 2, 9, 9), padding=1, activation=activation)
    reached = torch.zeros(1, 2, 9, 9, dtype=torch.bool)
    reached[0, 1, 3:6, 3:6] = True
    assert torch.equal(y.isnan(), reached)
    grad = torch.ones(1, 2, 9, 9)
    grad[0, 0, 4, 4] = math.nan
    _, of_weight = run(layout_conv2d, labels, weight.nan_to_num(), None, grad, padding=1)
    reached = torch.zeros(2, 2, 3, 3, dtype=torch.bool)
    reached[0, 0] = True
    reached[0, :, 1, 1] = torch.tensor([False, True])
    assert torch.equal(of_weight.isnan(), reached)


def test_compiles_without_a_graph_break():
    seed_everything()
    labels = torch.randint(-1, 3, (2, 5, 4))

    def loss(weight, bias):
        return layout_conv2d(labels, weight, bias, padding=1, activation="tanh").square().sum()

    weight, bias = torch.randn(4, 3, 3, 3, requires_grad=True), torch.randn(4, requires_grad=True)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    expected = torch.autograd.grad(loss(weight, bias), (weight, bias))
    for a, b in zip(torch.autograd.grad(compiled(weight, bias), (weight, bias)), expected, strict=True):
        torch.testing.assert_close(a, b)


def test_autocast_computes_in_the_autocast_dtype():
    labels, weight = torch.zeros(1, 4, 4, dtype=torch.int64), torch.randn(2, 3, 3, 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert layout_conv2d(labels, weight, torch.rand(2)).dtype == torch.bfloat16
        assert layout_conv2d(labels, weight.double()).dtype == torch.float64


def test_forward_mode_is_refused():
    labels, weight = torch.zeros(1, 4, 4, dtype=torch.int64), torch.randn(2, 3, 3, 3)
    with pytest.raises(NotImplementedError, match="forward-mode"):
        torch.func.jvp(lambda w: layout_conv2d(labels, w), (weight,), (weight,))


def test_the_module_is_a_convolution_of_the_one_hot_layout():
    seed_everything()
    module = nn.LayoutConv2d(5, 4, 4, stride=2, padding=1, activation="relu")
    torch.manual_seed(0)
    module.reset_parameters()
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(5, 4, 4, stride=2, padding=1)
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), conv.parameters(), strict=True))
    conv.load_state_dict(module.state_dict())
    labels = torch.randint(5, (2, 8, 6))
    expected = F.relu(conv(F.one_hot(labels, 5).permute(0, 3, 1, 2).float()))
    torch.testing.assert_close(module(labels), expected)
    spectral = torch.nn.utils.parametrizations.spectral_norm(nn.LayoutConv2d(5, 4))
    spectral(labels).sum().backward()
    assert spectral.parametrizations.weight.original.grad is not None
    assert "activation='relu'" in repr(module)


L, W = torch.zeros(2, 4, 5, dtype=torch.int64), torch.zeros(6, 3, 3, 3)
STRANGE = L.index_fill(2, torch.tensor([3]), 3)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (([1], W), {}, TypeError, "labels: expected a tensor, got list"),
        ((L[0], W), {}, ValueError, r"labels: expected shape \(B, H, W\), got shape \(4, 5\)"),
        ((L.int(), W), {}, TypeError, "labels: expected torch.int64, got torch.int32"),
        ((L.float(), W), {}, TypeError, "labels: expected torch.int64, got torch.float32"),
        ((STRANGE, W), {}, ValueError, r"labels: expected classes in \[0, 3\) or ignore_index -1, got 3"),
        ((L - 2, W), {}, ValueError, r"labels: expected classes in \[0, 3\) or ignore_index -1, got -2"),
        ((L - 1, W), {"ignore_index": 255}, ValueError, r"labels: expected .* ignore_index 255, got -1"),
        ((L, None), {}, TypeError, "weight: expected a tensor, got NoneType"),
        ((L, W[0]), {}, ValueError, r"weight: expected shape \(Co, Nc, kh, kw\), got shape \(3, 3, 3\)"),
        ((L, W.int()), {}, TypeError, "weight: expected torch.float32 or .*, got torch.int32"),
        ((L, W[:, :0]), {}, ValueError, r"weight: expected sizes >= 1, got shape \(6, 0, 3, 3\)"),
        ((L, W.to("meta")), {}, ValueError, "weight: expected device cpu, got meta"),
        ((L, W, torch.zeros(3)), {}, ValueError, r"bias: expected shape \(6,\), got shape \(3,\)"),
        ((L, W, torch.zeros(6).double()), {}, TypeError, "bias: expected torch.float32, got torch.float64"),
        ((L, W), {"stride": 0}, ValueError, "stride: expected an integer >= 1, got 0"),
        ((L, W), {"stride": (1, 1)}, TypeError, "stride: expected an integer, got tuple"),
        ((L, W), {"stride": 2**40}, ValueError, "stride: expected an integer <= 2147483648"),
        ((L, W), {"padding": -1}, ValueError, "padding: expected an integer >= 0, got -1"),
        ((L, W), {"padding": "same"}, TypeError, "padding: expected an integer, got str"),
        ((L, W), {"padding": 2**40}, ValueError, "padding: expected an integer <= 65536"),
        ((L, W), {"ignore_index": None}, TypeError, "ignore_index: expected an integer, got NoneType"),
        ((L, W), {"activation": "gelu"}, ValueError, "activation: expected one of None, 'relu', .*, got 'gelu'"),
        ((L, W), {"negative_slope": -0.1}, ValueError, "negative_slope: expected a finite number >= 0, got -0.1"),
        ((L[:, :2], W), {}, ValueError, "labels: expected a map of at least 3×3 for a 3×3 kernel .* got 2×5"),
        ((L[:, :0], W), {"padding": 1}, ValueError, "labels: expected a map of at least 1×1 .* got 0×5"),
    ],
)
def test_wrong_arguments_are_named(arguments, options, error, message):
    with pytest.raises(error, match=f"layout_conv2d: {message}"):
        layout_conv2d(*arguments, **options)


def test_a_direct_call_of_the_kernel_is_checked_too(native):
    options = (1, 0, -1, "relu", 0.2)
    y = OP(L, W, None, *options)
    for arguments, message in (
        ((L[0], W, None, *options), "labels: expected shape"),
        ((L.int(), W, None, *options), "labels: expected Long"),
        ((L + 3, W, None, *options), "labels: expected classes or ignore_index, got 3"),
        ((L, W[0], None, *options), "weight: expected shape"),
        ((L, W[:, :0], None, *options), "weight: expected sizes >= 1"),
        ((L, W, W[:1, 0, 0, 0], *options), "bias: expected shape"),
        ((L, W, None, 0, 0, -1, None, 0.2), "stride: expected an integer >= 1"),
        ((L, W, None, 1, -1, -1, None, 0.2), "padding: expected an integer >= 0"),
        ((L[:, :2], W, None, *options), "labels: expected a map not smaller"),
        ((L, W, None, 1, 0, -1, "gelu", 0.2), "activation: expected"),
    ):
        with pytest.raises(RuntimeError, match=message):
            OP(*arguments)
    needs = (True, True)
    for arguments, message in (
        ((y[:1], y[:1], L, 3, (3, 3), *options, *needs), "grad_y: expected shape"),
        ((y, y.double(), L, 3, (3, 3), *options, *needs), "y: expected Float"),
        ((y, None, L, 3, (3, 3), *options, *needs), "y: expected a tensor exactly with an activation"),
        ((y, y, L, 3, (3,), *options, *needs), "kernel_size: expected 2 numbers"),
        ((y, y, L + 3, 3, (3, 3), *options, *needs), "labels: expected classes"),
        ((y, y, L, 0, (3, 3), *options, *needs), "weight: expected sizes >= 1"),
    ):
        with pytest.raises(RuntimeError, match=message):
            BACKWARD(*arguments)
