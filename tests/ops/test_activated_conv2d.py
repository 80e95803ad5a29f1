"""activated_conv2d against torch's own layers, for every kernel size, padding, activation, dtype and layout."""

from __future__ import annotations

import collections
import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from numerics import as_one_vector, assert_as_accurate, assert_gradients_of_both_orders, saved_bytes
from sampling import DTYPES, IMAGE_SHAPES, LAYOUTS, leaf, random_image, seed_everything

from pyeqgan import backends
from pyeqgan.functional import activated_conv2d

OP = torch.ops.pyeqgan.activated_conv2d.default
BACKWARD = torch.ops.pyeqgan.activated_conv2d_backward.default
OPTIONS = ("leaky_relu", 0.2, 1, "reflect")
PADDING = {"zeros": "constant", "reflect": "reflect", "replicate": "replicate"}
ACTIVATIONS = {None: lambda x, _: x, "relu": lambda x, _: F.relu(x), "tanh": lambda x, _: x.tanh()}
ACTIVATIONS["leaky_relu"] = F.leaky_relu


@pytest.fixture(params=["native", "reference"])
def backend(request):
    """Run the test on the kernel and on the oracle that stands in for it."""
    with backends.force(request.param, "activated_conv2d"):
        yield request.param


def plain(x, weight, bias=None, *, activation="leaky_relu", negative_slope=0.2, padding=1, padding_mode="reflect"):
    h = ACTIVATIONS[activation](x, negative_slope)
    mode = PADDING[padding_mode] if h.numel() else "constant"  # torch refuses to reflect an empty batch
    return F.conv2d(F.pad(h, (padding,) * 4, mode=mode), weight, bias)


def run(function, x, weight, bias, seed, dtype=None, **options):
    inputs = [leaf(t if dtype is None else t.to(dtype)) for t in (x, weight, bias) if t is not None]
    y = function(*inputs, **options)
    grad = torch.randn(y.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(x.dtype)
    return [y, *torch.autograd.grad(y, inputs, grad.to(y.dtype))]


def compare(x, out_channels, kernel, **options):
    seed = torch.initial_seed()
    fan_in = max(x.shape[1] * math.prod(kernel), 1)
    weight = (torch.randn(out_channels, x.shape[1], *kernel, dtype=torch.float64) / fan_in**0.5).to(x.dtype)
    bias = torch.randn(out_channels, dtype=torch.float64).to(x.dtype) if out_channels % 2 else None
    ours = run(activated_conv2d, x, weight, bias, seed, **options)
    by_torch = run(plain, x, weight, bias, seed, **options)
    truth = run(plain, x, weight, bias, seed, torch.float64, **options)
    if x.numel() < 8:
        ours, by_torch, truth = as_one_vector(ours, by_torch, truth)
    assert_as_accurate(ours, by_torch, truth, x.dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", IMAGE_SHAPES, ids=str)
def test_3x3_matches_the_truth_as_well_as_plain_pytorch(shape, dtype, backend):
    seed_everything()
    cases = itertools.cycle(itertools.product(("reflect", "zeros", "replicate"), (3, 34), ACTIVATIONS))
    for layout, padding in itertools.product(LAYOUTS, (1, 0)):
        mode, out_channels, activation = next(cases)
        if min(shape[2:]) < 3 - 2 * padding:
            continue
        if min(shape[2:]) == 1 and mode == "reflect":
            mode = "replicate"
        x = random_image(shape, dtype, layout)
        compare(x, out_channels, (3, 3), activation=activation, padding=padding, padding_mode=mode)


# Many tiles to an image, several images to a block of tiles, several panels of channels on both sides.
@pytest.mark.parametrize("shape", [(1, 5, 40, 37), (33, 9, 6, 4), (2, 150, 8, 8), (3, 40, 2, 130)], ids=str)
@pytest.mark.parametrize("out_channels", [5, 150])
def test_3x3_beyond_one_block(shape, out_channels):
    seed_everything()
    for layout in ("contiguous", "channels_last"):
        compare(random_image(shape, torch.float32, layout), out_channels, (3, 3))


def test_sums_of_many_channels_keep_their_precision():
    seed_everything()
    compare(torch.rand(1, 700, 6, 6) + 1, 3, (3, 3), activation=None)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("shape", "kernel", "padding", "mode"),
    [
        ((2, 3, 6, 7), (5, 5), 2, "reflect"),
        ((2, 35, 9, 4), (1, 1), 0, "zeros"),
        ((3, 4, 5, 8), (3, 3), 2, "replicate"),
        ((3, 6, 4, 9), (2, 5), 3, "zeros"),
        ((1, 2, 1, 1), (3, 3), 3, "replicate"),
        ((0, 3, 6, 6), (5, 5), 2, "reflect"),
        ((2, 3, 20, 17), (7, 1), 3, "reflect"),
    ],
    ids=str,
)
def test_other_kernels_and_wider_padding(shape, kernel, padding, mode, dtype, backend):
    seed_everything()
    for layout, activation in zip(("contiguous", "channels_last", "sliced"), ACTIVATIONS, strict=False):
        x = random_image(shape, dtype, layout)
        compare(x, 7, kernel, activation=activation, padding=padding, padding_mode=mode)


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
@pytest.mark.parametrize("kernel", [3, 2])
def test_gradients_of_both_orders(activation, kernel, backend):
    seed_everything()

    def function(*inputs):
        return activated_conv2d(*inputs, activation=activation)

    inputs = [random_image((2, 3, 4, 5), torch.float64, "channels_last"), torch.randn(2, 3, kernel, kernel).double()]
    inputs = [leaf(t) for t in (*inputs, torch.randn(2).double())]
    for used in (inputs, inputs[:2], [inputs[0], inputs[1].detach()], [inputs[0].detach(), *inputs[1:]]):
        assert_gradients_of_both_orders(function, used)


@pytest.mark.parametrize("activation", ["leaky_relu", "tanh"])
def test_third_derivatives_match_plain_pytorch(activation):
    seed_everything()
    inputs = [leaf(t.double()) for t in (torch.randn(2, 3, 4, 5), torch.randn(2, 3, 3, 3), torch.randn(2))]

    def third(function):
        value = function(*inputs, activation=activation).square().sum()
        for _ in range(2):
            value = sum((g**3).sum() for g in torch.autograd.grad(value, inputs, create_graph=True))
        return torch.autograd.grad(value, inputs)

    for ours, expected in zip(third(activated_conv2d), third(plain), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)


def convolutions(run):
    """Calls of the operation, and gradients its backward was asked for."""
    counts = collections.Counter()

    class Spy(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func is OP:
                counts["forward"] += 1
            elif func is BACKWARD:
                counts.update({"x": args[-3], "weight": args[-2]})
            return func(*args, **(kwargs or {}))

    with Spy():
        result = run()
    return dict(+counts), result


def test_a_gradient_penalty_runs_no_product_in_vain():
    """The gradient to the image takes no weight gradients; that of its norm takes one product (but for the last layer,
    whose output's gradient is constant) and one weight gradient a layer, and does not go back through the forward
    pass, whose second derivative is zero."""
    x = torch.randn(1, 2, 6, 6, requires_grad=True)
    weights = [torch.randn(2, 2, 3, 3, requires_grad=True) for _ in range(3)]

    def network():
        h = x
        for weight in weights:
            h = activated_conv2d(h, weight * 0.5)
        return h.mean()

    counts, value = convolutions(network)
    assert counts == {"forward": 3}
    counts, (grad,) = convolutions(lambda: torch.autograd.grad(value, x, create_graph=True))
    assert counts == {"x": 3}
    counts, _ = convolutions(lambda: grad.square().sum().backward())
    assert counts == {"forward": 2, "weight": 3}


@pytest.mark.parametrize(
    ("shape", "layout", "kernel"),
    [((2, 3, 5, 4), "channels_last", 3), ((2, 3, 5, 4), "sliced", 2), ((2, 1, 4, 5), "contiguous", 3),
     ((0, 3, 4, 4), "offset", 3)],
    ids=str,
)  # fmt: skip
def test_opcheck(shape, layout, kernel, backend):
    """Schema, fake (shape, dtype, strides) and autograd registration, forward and backward, static and dynamic."""
    if backend == "reference" and layout != "channels_last":
        pytest.skip("one layout tells whether the oracle's results are laid out as the fake says; opcheck is slow")
    seed_everything()
    x, weight = leaf(random_image(shape, torch.float32, layout)), leaf(torch.randn(2, shape[1], kernel, kernel))
    torch.library.opcheck(OP, (x, weight, leaf(torch.randn(2)), *OPTIONS))
    grad = leaf(torch.randn_like(OP(x.detach(), weight.detach(), None, *OPTIONS)))
    torch.library.opcheck(BACKWARD, (grad, x, weight, *OPTIONS, True, True, True))
    torch.library.opcheck(BACKWARD, (grad.detach(), x.detach(), weight.detach(), *OPTIONS, False, True, False))


def test_output_keeps_the_memory_format(backend):
    x = leaf(random_image((2, 8, 5, 6), torch.float32, "channels_last"))
    y = activated_conv2d(x, torch.randn(3, 8, 3, 3))
    assert y.is_contiguous(memory_format=torch.channels_last)
    (grad,) = torch.autograd.grad(y.sum(), x)
    assert grad.is_contiguous(memory_format=torch.channels_last)


def test_saves_the_input_and_the_weight():
    x, weight = torch.randn(2, 8, 6, 7, requires_grad=True), torch.randn(5, 8, 3, 3, requires_grad=True)
    bias = torch.randn(5, requires_grad=True)
    assert saved_bytes(lambda: activated_conv2d(x, weight, bias)) == 4 * (x.numel() + weight.numel())


@pytest.mark.parametrize("kernel", [3, 5])
def test_only_the_gradients_asked_for_are_computed(kernel):
    x, weight = torch.randn(2, 4, 5, 6), torch.randn(3, 4, kernel, kernel)
    grad = torch.randn_like(OP(x, weight, None, *OPTIONS))
    everything = BACKWARD(grad, x, weight, *OPTIONS, True, True, True)
    for i in range(3):
        alone = BACKWARD(grad, x, weight, *OPTIONS, *(j == i for j in range(3)))
        assert torch.equal(alone[i], everything[i])
        assert all(alone[j].numel() == 0 for j in range(3) if j != i)


@pytest.mark.parametrize("shape", [(3, 20, 37, 41), (9, 40, 4, 4), (1, 3, 9, 300)], ids=str)
@pytest.mark.parametrize("kernel", [3, 5])
def test_result_does_not_depend_on_the_number_of_threads(shape, kernel):
    seed_everything()
    x, weight, bias = torch.randn(shape), torch.randn(33, shape[1], kernel, kernel), torch.randn(33)
    threads = torch.get_num_threads()
    try:
        results = []
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            results.append(run(activated_conv2d, x, weight, bias, 0))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 3e38, 1e35, 1e-42])
@pytest.mark.parametrize("where", ["x", "weight", "grad"])
def test_a_value_goes_no_further_than_its_neighbourhood(where, value):
    """Not over the tile that Winograd's sums would spread it over; denormal numbers are as good as any."""
    seed_everything()
    tensors = {"x": torch.randn(2, 5, 9, 8), "weight": torch.randn(6, 5, 3, 3), "grad": torch.randn(2, 6, 9, 8)}
    tensors[where][(1, 3, 2, 1) if where == "weight" else (1, 3, 4, 3)] = value  # where reflection does not double it

    def both(function):
        x, weight = leaf(tensors["x"]), leaf(tensors["weight"])
        y = function(x, weight)
        return [y.detach(), *torch.autograd.grad(y, (x, weight), tensors["grad"])]

    for ours, expected in zip(both(activated_conv2d), both(plain), strict=True):
        finite = expected.isfinite()
        assert torch.equal(ours.isfinite(), finite)
        largest = expected[finite].abs().amax()
        assert (ours[finite] - expected[finite]).abs().amax() <= 1e-5 * largest


def test_compiles_without_a_graph_break():
    def loss(x, weight):
        return activated_conv2d(x, weight).square().sum()

    inputs = torch.randn(2, 3, 5, 4, requires_grad=True), torch.randn(2, 3, 3, 3, requires_grad=True)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    expected = torch.autograd.grad(loss(*inputs), inputs)
    for a, b in zip(torch.autograd.grad(compiled(*inputs), inputs), expected, strict=True):
        torch.testing.assert_close(a, b)


def test_autocast_computes_in_the_autocast_dtype():
    x, weight = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 3, 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert activated_conv2d(x, weight).dtype == torch.bfloat16
        assert activated_conv2d(x.double(), weight.double()).dtype == torch.float64


def test_forward_mode_is_refused():
    x, weight = torch.randn(1, 2, 3, 3), torch.randn(2, 2, 3, 3)
    with pytest.raises(NotImplementedError, match="forward-mode"):
        torch.func.jvp(lambda x: activated_conv2d(x, weight), (x,), (x,))


X, WEIGHT = torch.zeros(2, 3, 4, 5), torch.zeros(6, 3, 3, 3)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (([1.0], WEIGHT), {}, TypeError, "x: expected a tensor, got list"),
        ((X[0], WEIGHT), {}, ValueError, r"x: expected shape \(B, C, H, W\), got shape \(3, 4, 5\)"),
        ((X.int(), WEIGHT), {}, TypeError, r"x: expected torch.float32 or .*, got torch.int32"),
        ((X, WEIGHT[:, :2]), {}, ValueError, r"weight: expected shape \(Co, 3, kh, kw\), got shape \(6, 2, 3, 3\)"),
        ((X, WEIGHT[0]), {}, ValueError, "weight: expected shape"),
        ((X, WEIGHT.double()), {}, TypeError, "weight: expected torch.float32, got torch.float64"),
        ((X, WEIGHT.to("meta")), {}, ValueError, "weight: expected device cpu, got meta"),
        ((X, WEIGHT, torch.zeros(5)), {}, ValueError, r"bias: expected shape \(6,\), got shape \(5,\)"),
        ((X, WEIGHT), {"activation": "gelu"}, ValueError, "activation: expected one of .*, got 'gelu'"),
        ((X, WEIGHT), {"negative_slope": -0.1}, ValueError, "negative_slope: expected a finite number >= 0"),
        ((X, WEIGHT), {"negative_slope": math.nan}, ValueError, "negative_slope: expected a finite number"),
        ((X, WEIGHT), {"padding": -1}, ValueError, "padding: expected an integer >= 0, got -1"),
        ((X, WEIGHT), {"padding": (1, 1)}, TypeError, "padding: expected an integer, got tuple"),
        ((X, WEIGHT), {"padding_mode": "circular"}, ValueError, "padding_mode: expected one of"),
        ((X, WEIGHT), {"padding": 4}, ValueError, "x: expected a map of at least 5×5 .* got 4×5"),
        ((X[:, :, :2], WEIGHT), {"padding": 0}, ValueError, "x: expected a map of at least 3×3 .* got 2×5"),
        ((X[:, :, :1], WEIGHT), {}, ValueError, "x: expected a map of at least 2×2 .* got 1×5"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_named(arguments, options, error, message):
    with pytest.raises(error, match=f"activated_conv2d: {message}"):
        activated_conv2d(*arguments, **options)


def test_a_direct_call_of_the_kernel_is_checked_too():
    y = OP(X, WEIGHT, None, *OPTIONS)
    needs = (True, True, True)
    for arguments, message in (
        ((y[:1], X, WEIGHT, *OPTIONS, *needs), "grad_y: expected shape"),
        ((y.double(), X, WEIGHT, *OPTIONS, *needs), "grad_y: expected Float"),
        ((y, X, WEIGHT[:, :1], *OPTIONS, *needs), "weight: expected shape"),
        ((y, X, WEIGHT, "gelu", 0.2, 1, "reflect", *needs), "activation: expected"),
        ((y, X, WEIGHT, None, 0.2, 1, "circular", *needs), "padding_mode: expected"),
        ((y, X, WEIGHT, None, 0.2, -1, "zeros", *needs), "padding: expected an integer >= 0"),
        ((y, X, WEIGHT, None, 0.2, 4, "reflect", *needs), "x: expected a map larger"),
    ):
        with pytest.raises(RuntimeError, match=message):
            BACKWARD(*arguments)
    with pytest.raises(RuntimeError, match="bias: expected shape"):
        OP(X, WEIGHT, torch.zeros(1), *OPTIONS)
