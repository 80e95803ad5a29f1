"""bilateral_propagation: the pattern of an operation's tests."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from numerics import as_one_vector, assert_as_accurate, assert_gradients_of_both_orders, relative_error, saved_bytes
from sampling import DTYPES, IMAGE_SHAPES, LAYOUTS, leaf, random_image, seed_everything

from pyeqgan import backends, reference
from pyeqgan.functional import bilateral_propagation

OP = torch.ops.pyeqgan.bilateral_propagation.default
BACKWARD = torch.ops.pyeqgan.bilateral_propagation_backward.default


@pytest.fixture(params=["native", "reference"], autouse=True)
def backend(request):
    """Every test runs on the kernel and on the oracle that stands in for it."""
    with backends.force(request.param, "bilateral_propagation"):
        yield request.param


def run(function, x, gate, grad, **options):
    inputs = [leaf(t) for t in (x, gate) if t is not None]
    y = function(*inputs, **options)
    return [y, *torch.autograd.grad(y, inputs, grad.to(y.dtype))]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", IMAGE_SHAPES, ids=str)
def test_matches_the_truth_as_well_as_plain_pytorch(shape, dtype):
    seed_everything()
    settings = itertools.cycle([{}, {"sigma": 0.7, "radius": 1}, {"sigma": 3.0, "radius": 200}, {"radius": 0}])
    for layout, with_gate in itertools.product(LAYOUTS, (False, True)):
        options = next(settings)
        x = random_image(shape, dtype, layout)
        gate = torch.rand(shape[:2], dtype=torch.float64).to(dtype) if with_gate else None
        grad = random_image((shape[0], 2 * shape[1], *shape[2:]), dtype, layout)
        ours = run(bilateral_propagation, x, gate, grad, **options)
        plain = run(naive, x, gate, grad, **options)
        truth = run(naive, x.double(), None if gate is None else gate.double(), grad.double(), **options)
        if math.prod(shape) == 1:
            ours, plain, truth = as_one_vector(ours, plain, truth)
        assert_as_accurate(ours, plain, truth, dtype)


def naive(x, gate=None, *, sigma=1.5, radius=None):
    """The definition of ops.md, pixel by pixel, in the dtype of x: independent of the oracle's einsums."""
    radius = math.ceil(5 * sigma) if radius is None else radius
    height, width = x.shape[2:]
    v = x if gate is None else x * gate[:, :, None, None]

    def matrix(size):
        i = torch.arange(size)
        distance = (i[:, None] - i).double()
        a = torch.exp(-(distance**2) / (2 * sigma**2)) * (distance.abs() <= radius)
        return (a / a.sum(1, keepdim=True)).to(x.dtype)

    spatial = matrix(height) @ v @ matrix(width).T
    z, values = [], []
    s = torch.nn.functional.pad(torch.sigmoid(v), (1, 1, 1, 1))
    padded = torch.nn.functional.pad(v, (1, 1, 1, 1))
    centre = s[:, :, 1:-1, 1:-1]
    for di, dj in itertools.product((0, 1, 2), repeat=2):
        z.append((centre * s[:, :, di : di + height, dj : dj + width]).mean(1))
        values.append(padded[:, :, di : di + height, dj : dj + width])
    a = torch.softmax(torch.stack(z), 0)
    ranged = sum(a[k][:, None] * values[k] for k in range(9))
    return torch.cat([spatial, ranged], 1)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "sliced"])
def test_gradients_of_both_orders(layout):
    seed_everything()
    x = leaf(random_image((2, 3, 3, 4), torch.float64, layout))
    gate = leaf(torch.rand(2, 3, dtype=torch.float64))
    for inputs in ((x,), (x, gate), (x.detach(), gate)):
        assert_gradients_of_both_orders(bilateral_propagation, inputs)


@pytest.mark.parametrize(
    ("shape", "layout"),
    [((2, 3, 5, 4), "channels_last"), ((2, 3, 5, 4), "sliced"), ((2, 1, 4, 5), "contiguous"), ((0, 3, 4, 4), "offset")],
    ids=str,
)
def test_opcheck(shape, layout, backend):
    """Schema, fake (shape, dtype, strides) and autograd registration, forward and backward, static and dynamic."""
    if backend == "reference" and layout != "channels_last":
        pytest.skip("one layout tells whether the oracle's results are laid out as the fake says; opcheck is slow")
    seed_everything()
    x, gate = leaf(random_image(shape, torch.float32, layout)), leaf(torch.rand(shape[:2]))
    torch.library.opcheck(OP, (x, gate, 1.5, 8))
    y, affinity = OP(x.detach(), gate.detach(), 1.5, 8)
    grad = leaf(torch.randn_like(y))
    torch.library.opcheck(BACKWARD, (grad, x, gate, affinity, 1.5, 8, True, True))
    torch.library.opcheck(BACKWARD, (grad.detach(), x.detach(), None, affinity, 1.5, 8, True, False))


def test_output_keeps_the_memory_format():
    x = random_image((2, 8, 5, 6), torch.float32, "channels_last").requires_grad_()
    y = bilateral_propagation(x)
    assert y.is_contiguous(memory_format=torch.channels_last)
    (grad,) = torch.autograd.grad(y.sum(), x)
    assert grad.is_contiguous(memory_format=torch.channels_last)


def test_saves_the_input_the_gate_and_nine_numbers_a_pixel():
    x, gate = torch.randn(2, 8, 6, 7, requires_grad=True), torch.rand(2, 8, requires_grad=True)
    assert saved_bytes(lambda: bilateral_propagation(x, gate)) == 4 * (x.numel() + gate.numel() + 9 * 2 * 6 * 7)


def test_only_the_gradients_asked_for_are_computed():
    x, gate = torch.randn(2, 4, 5, 6), torch.rand(2, 4)
    y, affinity = OP(x, gate, 1.5, 8)
    grad = torch.randn_like(y)
    both = BACKWARD(grad, x, gate, affinity, 1.5, 8, True, True)
    only_x, none = BACKWARD(grad, x, gate, affinity, 1.5, 8, True, False)
    assert none.numel() == 0
    assert torch.equal(only_x, both[0])
    none, only_gate = BACKWARD(grad, x, gate, affinity, 1.5, 8, False, True)
    assert none.numel() == 0
    assert torch.equal(only_gate, both[1])


def test_result_does_not_depend_on_the_number_of_threads(backend):
    if backend == "reference":
        pytest.skip("the promise is the kernel's: torch's own einsum may cut its sums by threads")
    seed_everything()
    x, gate = torch.randn(3, 20, 37, 41), torch.rand(3, 20)
    grad = torch.randn(3, 40, 37, 41)
    threads = torch.get_num_threads()
    try:
        results = []
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            results.append(run(bilateral_propagation, x, gate, grad))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_nan_stays_where_the_maths_puts_it(backend):
    if backend == "reference":
        pytest.skip("the oracle multiplies by a matrix with zeros, and 0·NaN is NaN")
    x = torch.randn(1, 2, 9, 9)
    x[0, 0, 4, 4] = math.nan
    y = bilateral_propagation(x, sigma=1.0, radius=1)
    reached = torch.zeros(1, 4, 9, 9, dtype=torch.bool)
    reached[0, (0, 2), 3:6, 3:6] = True  # the channel's own neighbourhood, in both terms
    reached[0, 3, 3:6, 3:6] = True  # and through the affinities the other channel's range term
    assert torch.equal(y.isnan(), reached)


def test_extreme_values():
    x = torch.tensor([1e30, -1e30, 1e-40, 0.0]).view(1, 1, 2, 2)
    y = bilateral_propagation(x)
    assert relative_error(y, reference.bilateral_propagation(x.double())) < 1e-6


def test_compiles_without_a_graph_break():
    def loss(x, gate):
        return bilateral_propagation(x, gate).square().sum()

    x, gate = torch.randn(2, 3, 5, 4, requires_grad=True), torch.rand(2, 3, requires_grad=True)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    expected = torch.autograd.grad(loss(x, gate), (x, gate))
    for a, b in zip(torch.autograd.grad(compiled(x, gate), (x, gate)), expected, strict=True):
        torch.testing.assert_close(a, b)


def test_autocast_computes_in_the_autocast_dtype():
    x = torch.randn(2, 3, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert bilateral_propagation(x, torch.rand(2, 3)).dtype == torch.bfloat16
        assert bilateral_propagation(x.double()).dtype == torch.float64


def test_forward_mode_is_refused():
    x = torch.randn(1, 2, 3, 3)
    with pytest.raises(NotImplementedError, match="forward-mode"):
        torch.func.jvp(bilateral_propagation, (x,), (x,))


X = torch.zeros(2, 3, 4, 5)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (([1.0],), {}, TypeError, "x: expected a tensor, got list"),
        ((X[0],), {}, ValueError, r"x: expected shape \(B, C, H, W\), got shape \(3, 4, 5\)"),
        ((X.int(),), {}, TypeError, r"x: expected torch.float32 or .*, got torch.int32"),
        ((X.to_sparse(),), {}, TypeError, "x: expected a strided"),
        ((X, torch.zeros(3, 2)), {}, ValueError, r"gate: expected shape \(2, 3\), got shape \(3, 2\)"),
        ((X, torch.zeros(2, 3, 1, 1)), {}, ValueError, "gate: expected shape"),
        ((X, torch.zeros(2, 3).double()), {}, TypeError, "gate: expected torch.float32, got torch.float64"),
        ((X, torch.zeros(2, 3, device="meta")), {}, ValueError, "gate: expected device cpu, got meta"),
        ((X,), {"sigma": 0.0}, ValueError, "sigma: expected a finite number > 0, got 0.0"),
        ((X,), {"sigma": -1}, ValueError, "sigma: expected a finite number > 0, got -1"),
        ((X,), {"sigma": math.nan}, ValueError, "sigma: expected a finite number > 0, got nan"),
        ((X,), {"sigma": math.inf}, ValueError, "sigma: expected a finite number > 0, got inf"),
        ((X,), {"sigma": "1"}, TypeError, "sigma: expected a number, got str"),
        ((X,), {"radius": -1}, ValueError, "radius: expected an integer >= 0, got -1"),
        ((X,), {"radius": 1.5}, TypeError, "radius: expected an integer, got float"),
    ],
)
def test_wrong_arguments_are_named(arguments, options, error, message):
    with pytest.raises(error, match=f"bilateral_propagation: {message}"):
        bilateral_propagation(*arguments, **options)


def test_a_direct_call_of_the_kernel_is_checked_too(backend):
    if backend == "reference":
        pytest.skip("the oracle's own tensor operations refuse wrong shapes")
    y, affinity = OP(X, None, 1.5, 8)
    with pytest.raises(RuntimeError, match="grad_y: expected shape"):
        BACKWARD(y[:1], X, None, affinity, 1.5, 8, True, False)
    with pytest.raises(RuntimeError, match="affinity: expected shape"):
        BACKWARD(y, X, None, affinity[:, :3], 1.5, 8, True, False)
    with pytest.raises(RuntimeError, match="gate: expected shape"):
        OP(X, torch.zeros(1), 1.5, 8)
    with pytest.raises(RuntimeError, match="radius: expected an integer"):
        OP(X, None, 1.5, -8)
