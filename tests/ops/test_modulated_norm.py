"""modulated_norm against torch's own layers: norms, activations, maps and vectors, dtypes, layouts."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from numerics import (
    KINKED,
    as_one_vector,
    assert_as_accurate,
    assert_gradients_of_both_orders,
    off_the_kink,
    saved_bytes,
)
from plain import modulated_norm as plain
from sampling import DTYPES, IMAGE_SHAPES, LAYOUTS, leaf, random_image, seed_everything

from pyeqgan import backends
from pyeqgan.functional import modulated_norm

OP = torch.ops.pyeqgan.modulated_norm.default
BACKWARD = torch.ops.pyeqgan.modulated_norm_backward.default
NORMS = {"none": {"norm": None}, "batch": {"norm": "batch", "training": True}}
NORMS |= {"given": {"norm": "batch", "training": False}, "instance": {"norm": "instance"}}
# At half precision rounding moves many values across a kink at zero, and one of them outweighs all rounding.
SMOOTH = {"activation": "tanh"}


@pytest.fixture(params=["native", "reference"])
def backend(request):
    """Run the test on the kernel and on the oracle that stands in for it."""
    with backends.force(request.param, "modulated_norm"):
        yield request.param


def arguments(shape, dtype, *, norm="instance", layout="contiguous", kind="maps"):
    """x, gamma, beta, and the norm's options; ``kind``: "maps", "halves" of one tensor, or "vectors" (B,C)."""
    batch, channels = shape[:2]
    x = random_image(shape, dtype, layout)
    if kind == "vectors":
        gamma, beta = (torch.randn(batch, channels, dtype=torch.float64).to(dtype) for _ in range(2))
    elif kind == "halves":
        gamma, beta = random_image((batch, 2 * channels, *shape[2:]), dtype, layout).chunk(2, 1)
    else:
        gamma, beta = (random_image(shape, dtype, layout) for _ in range(2))
    options = dict(NORMS[norm])
    if norm in ("batch", "given"):
        mean, var = torch.randn(2, channels, dtype=torch.float64)
        options |= {"running_mean": mean.to(dtype), "running_var": (var.square() + 0.5).to(dtype)}
    return (x, gamma, beta), options


def run(function, tensors, options, dtype=None, where=1):
    """The result, the gradients of all tensors of one handed back ``where`` it says, and the running statistics."""

    def converted(t):
        return t if dtype is None else t.to(dtype)

    inputs = [leaf(converted(t)) for t in tensors]
    options = {k: converted(v).clone() if isinstance(v, torch.Tensor) else v for k, v in options.items()}
    y = function(*inputs, **options)
    draw = torch.Generator().manual_seed(torch.initial_seed())
    grad = where * torch.randn(y.shape, dtype=torch.float64, generator=draw).to(tensors[0].dtype)
    running = [options[k] for k in ("running_mean", "running_var") if k in options]
    return [y, *torch.autograd.grad(y, inputs, grad.to(y.dtype)), *running]


def compare(tensors, options, mean=0.0):
    """Ours and torch's layers against the truth; ``mean``: how many deviations from 0 a norm's argument lies."""
    dtype, where = tensors[0].dtype, 1
    if options["activation"] in KINKED:
        linear = run(plain, tensors, {**options, "activation": None}, torch.float64)[0]
        where = off_the_kink(linear, dtype)
    ours, by_torch = (run(f, tensors, options, where=where) for f in (modulated_norm, plain))
    assert all(t.dtype == dtype for t in ours)
    truth = run(plain, tensors, options, torch.float64, where)
    if tensors[0].numel() == 1:
        ours, by_torch, truth = as_one_vector(ours, by_torch, truth)
    # A mean is kept rounded, and its rounding stays with all that it is taken from.
    assert_as_accurate(ours, by_torch, truth, dtype, [mean * float(t.norm()) for t in truth])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [s for s in IMAGE_SHAPES if s[0]], ids=str)
def test_matches_the_truth_as_well_as_plain_pytorch(shape, dtype, backend):
    seed_everything()
    activations = itertools.cycle(("leaky_relu", None, "tanh", "relu"))
    for (layout, norm), kind in zip(
        itertools.product(LAYOUTS, NORMS), itertools.cycle(("maps", "halves", "vectors")), strict=False
    ):
        if norm in ("batch", "instance") and math.prod(shape[2:]) * (shape[0] if norm == "batch" else 1) == 1:
            continue  # torch refuses to normalise one value
        activation = next(activations)
        if dtype.itemsize == 2:
            activation = {"relu": "tanh", "leaky_relu": None}.get(activation, activation)
        tensors, options = arguments(shape, dtype, norm=norm, layout=layout, kind=kind)
        compare(tensors, {**options, "activation": activation})


# Several tiles to an image, a map of more pixels than are summed in one go, and maps beyond the caches, whose channels
# begin where a vector may be streamed to or not.
@pytest.mark.parametrize(
    "shape", [(2, 3, 70, 131), (1, 300, 9, 8), (3, 65, 30, 31), (1, 64, 64, 129), (2, 3, 301, 300)], ids=str
)
@pytest.mark.parametrize("norm", ["batch", "instance"])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_beyond_one_tile(shape, norm, layout):
    seed_everything()
    for kind in ("halves", "vectors"):
        tensors, options = arguments(shape, torch.float32, norm=norm, layout=layout, kind=kind)
        compare(tensors, {**options, **SMOOTH})


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gamma_and_beta_may_lie_in_any_way(dtype, backend):
    """As x or not, in one layout or two, of images or pixels that are one in memory."""
    seed_everything()
    shape = (2, 5, 6, 7)
    for layouts in itertools.product(("contiguous", "channels_last"), LAYOUTS, ("sliced", "expanded", "channels_last")):
        tensors = [random_image(shape, dtype, layout) for layout in layouts]
        compare(tensors, {"activation": None})
    x = random_image(shape, dtype, "channels_last")
    gamma = torch.randn(2, 5, 1, 1, dtype=torch.float64).to(dtype).expand(shape)
    compare([x, gamma, gamma], {"activation": None})


def test_vectors_are_maps_that_are_constant(backend):
    seed_everything()
    for norm, layout in itertools.product(NORMS, ("contiguous", "channels_last")):
        (x, gamma, beta), options = arguments((3, 5, 4, 6), torch.float64, norm=norm, layout=layout, kind="vectors")
        maps = [t[:, :, None, None].expand(x.shape) for t in (gamma, beta)]
        vectors, expected = run(modulated_norm, (x, gamma, beta), options), run(modulated_norm, (x, *maps), options)
        expected[2:4] = [g.sum((2, 3)) for g in expected[2:4]]
        for a, b in zip(vectors, expected, strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("kind", ["maps", "vectors"])
@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 3, 0, 4), (2, 0, 3, 4)], ids=str)
def test_nothing_in_nothing_out(shape, kind, backend):
    for norm in NORMS:
        tensors, options = arguments(shape, torch.float32, norm=norm, kind=kind)
        y, *rest = run(modulated_norm, tensors, options)
        assert y.shape == shape
        assert not any(g.any() for g in rest[:3])
        given = [options[k] for k in ("running_mean", "running_var") if k in options]
        assert all(torch.equal(a, b) for a, b in zip(rest[3:], given, strict=True))


def test_a_map_of_one_pixel_is_its_own_mean(backend):
    x, gamma, beta = (leaf(torch.randn(2, 3, 1, 1)) for _ in range(3))
    y = modulated_norm(x, gamma, beta, activation=None)
    assert torch.equal(y, beta)
    grads = torch.autograd.grad(y.sum(), (x, gamma, beta))
    assert not grads[0].any() and not grads[1].any() and (grads[2] == 1).all()


@pytest.mark.parametrize("kind", ["maps", "vectors"])
@pytest.mark.parametrize("norm", NORMS)
def test_gradients_of_both_orders(norm, kind, backend):
    seed_everything()
    for activation in ("leaky_relu", "tanh", "relu", None):
        tensors, options = arguments((2, 2, 2, 3), torch.float64, norm=norm, kind=kind)

        def function(*inputs, options={**options, "activation": activation, "momentum": 0.0}):  # noqa: B006
            return modulated_norm(*inputs, **options)

        inputs = [leaf(t) for t in tensors]
        assert_gradients_of_both_orders(function, inputs)


def test_running_statistics_equal_batch_norm(backend):
    """Over several steps, in training and after it."""
    seed_everything()
    norm = torch.nn.BatchNorm2d(6, momentum=0.3, affine=False)
    running = {"running_mean": norm.running_mean.clone(), "running_var": norm.running_var.clone()}
    for training in (True, True, True, False):
        norm.train(training)
        x, gamma, beta = torch.randn(3, 4, 6, 5, 6)
        ours = modulated_norm(x, gamma, beta, norm="batch", **running, training=training, momentum=0.3, activation=None)
        torch.testing.assert_close(ours, norm(x) * (1 + gamma) + beta)
        torch.testing.assert_close(running["running_mean"], norm.running_mean)
        torch.testing.assert_close(running["running_var"], norm.running_var)


@pytest.mark.parametrize("norm", ["batch", "instance"])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_statistics_of_a_large_mean_keep_their_precision(norm, layout):
    """Also where the first pixel is far from all others."""
    seed_everything()
    for outlier in (0, 1e4):
        (x, gamma, beta), options = arguments((2, 3, 70, 80), torch.float32, norm=norm, layout=layout)
        x = x + 1000
        x[..., 0, 0] += outlier
        compare((x, gamma, beta), {**options, "activation": None}, mean=float(x.mean() / x.std()))


@pytest.mark.parametrize("norm", NORMS)
def test_saves_its_inputs_and_the_statistics(norm, backend):
    tensors, options = arguments((2, 3, 4, 5), torch.float32, norm=norm)
    inputs = [leaf(t) for t in tensors]
    statistics = {"none": 0, "batch": 3, "given": 3, "instance": 6}[norm]
    saved = saved_bytes(lambda: modulated_norm(*inputs, **options))
    assert saved == 4 * (sum(t.numel() for t in inputs) + 2 * statistics)


def test_halves_of_one_tensor_are_saved_once():
    x, maps = leaf(torch.randn(2, 3, 4, 5)), leaf(torch.randn(2, 6, 4, 5))
    assert saved_bytes(lambda: modulated_norm(x, *maps.chunk(2, 1))) == 4 * (x.numel() + maps.numel() + 2 * 6)


def backward_arguments(tensors, options, needs=(True,) * 3):
    x, gamma, beta = (t.detach() for t in tensors)
    norm, training = options["norm"], options.get("training", False)
    statistics = [options.get("running_mean"), options.get("running_var")]
    y, mean, var = OP(x, gamma, beta, norm, *statistics, training, 1e-5, "leaky_relu", 0.2)
    return [torch.randn_like(y), *tensors, norm, mean, var, training, 1e-5, "leaky_relu", 0.2, *needs]


@pytest.mark.parametrize(
    ("norm", "layout", "kind"),
    [("none", "contiguous", "maps"), ("batch", "channels_last", "halves"), ("instance", "sliced", "maps"),
     ("given", "offset", "vectors"), ("instance", "channels_last", "vectors")],
)  # fmt: skip
def test_opcheck(norm, layout, kind, backend):
    """Schema, fake (shape, dtype, strides) and autograd registration, forward and backward, static and dynamic."""
    if backend == "reference" and layout != "channels_last":
        pytest.skip("one layout tells whether the oracle's results are laid out as the fake says; opcheck is slow")
    seed_everything()
    tensors, options = arguments((2, 3, 3, 4), torch.float32, norm=norm, layout=layout, kind=kind)
    tensors = [leaf(t) for t in tensors]
    statistics = [options.get("running_mean"), options.get("running_var")]
    numbers = options.get("training", False), 1e-5, "leaky_relu", 0.2
    torch.library.opcheck(OP, (*tensors, options["norm"], *statistics, *numbers))
    checks = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
    torch.library.opcheck(BACKWARD, backward_arguments(tensors, options), test_utils=checks)


def test_output_keeps_the_memory_format(backend):
    x, maps = (leaf(random_image((2, c, 5, 6), torch.float32, "channels_last")) for c in (8, 16))
    y = modulated_norm(x, *maps.chunk(2, 1))
    assert y.is_contiguous(memory_format=torch.channels_last)
    for grad in torch.autograd.grad(y.square().sum(), (x, maps)):
        assert grad.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("kind", ["maps", "vectors"])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_only_the_gradients_asked_for_are_computed(norm, kind, layout):
    given = backward_arguments(*arguments((2, 3, 4, 5), torch.float32, norm=norm, kind=kind, layout=layout))
    everything = BACKWARD(*given)
    for i in range(3):
        alone = BACKWARD(*given[:-3], *(j == i for j in range(3)))
        assert torch.equal(alone[i], everything[i])
        assert all(alone[j].numel() == 0 for j in range(3) if j != i)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_result_does_not_depend_on_the_number_of_threads(norm, layout):
    seed_everything()
    for kind in ("maps", "vectors"):
        given = arguments((3, 40, 29, 31), torch.float32, norm=norm, layout=layout, kind=kind)
        threads = torch.get_num_threads()
        try:
            results = []
            for n in (1, 2, 3):
                torch.set_num_threads(n)
                results.append(run(modulated_norm, *given))
        finally:
            torch.set_num_threads(threads)
        for other in results[1:]:
            assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_nan_goes_no_further_than_the_maths(layout, backend):
    """Of x over the pixels that it is normalised with; of gamma and beta over their pixel, backward over those of x."""
    seed_everything()
    for norm, where in itertools.product(("none", "instance", "batch"), range(3)):
        tensors, options = arguments((2, 3, 9, 8), torch.float32, norm=norm, layout=layout)
        tensors[where][1, 1, 4, 3] = math.nan
        ours, expected = run(modulated_norm, tensors, options), run(plain, tensors, options)
        for a, b in zip(ours, expected, strict=True):
            assert torch.equal(a.isnan(), b.isnan())


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_extreme_values(layout, backend):
    """Infinite and denormal numbers."""
    values = torch.tensor([math.inf, -math.inf, 1e30, 1e-42, 0.0, -1.0]).expand(1, 2, 4, 6)
    values = values.contiguous(memory_format=getattr(torch, layout.replace("contiguous", "contiguous_format")))
    for x, gamma in ((torch.ones_like(values), values), (values, torch.ones_like(values))):
        y = modulated_norm(x, gamma, gamma, norm=None)
        torch.testing.assert_close(y, plain(x, gamma, gamma, norm=None), equal_nan=True)


@pytest.mark.parametrize("dtype", [d for d in DTYPES if d != torch.float64], ids=str)
def test_a_constant_map_normalises_to_zero(dtype):
    """Though sums of many equal numbers are rounded: means are found in float64."""
    for layout, value in itertools.product((torch.contiguous_format, torch.channels_last), (0.1, -3e4)):
        x = torch.full((1, 2, 70, 70), value, dtype=dtype).contiguous(memory_format=layout)
        assert not modulated_norm(x, x, 0 * x).any()


def test_compiles_without_a_graph_break():
    def loss(x, maps, mean, var):
        y = modulated_norm(x, *maps.chunk(2, 1), norm="batch", running_mean=mean, running_var=var, training=True)
        return y.square().sum()

    inputs = leaf(torch.randn(2, 3, 4, 5)), leaf(torch.randn(2, 6, 4, 5))
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    statistics = [[torch.zeros(3), torch.ones(3)] for _ in range(2)]
    expected = torch.autograd.grad(loss(*inputs, *statistics[0]), inputs)
    ours = torch.autograd.grad(compiled(*inputs, *statistics[1]), inputs)
    for a, b in zip((*ours, *statistics[1]), (*expected, *statistics[0]), strict=True):
        torch.testing.assert_close(a, b)


def test_autocast_computes_in_the_autocast_dtype():
    x, gamma, beta = torch.randn(3, 2, 3, 4, 4)
    options = {"norm": "batch", "training": True, "running_mean": torch.zeros(3), "running_var": torch.ones(3)}
    with torch.autocast("cpu", torch.bfloat16):
        assert modulated_norm(x, gamma.bfloat16(), beta, **options).dtype == torch.bfloat16
    assert options["running_mean"].dtype == torch.float32
    assert options["running_mean"].any()


def test_forward_mode_is_refused():
    x = torch.randn(1, 2, 3, 3)
    with pytest.raises(NotImplementedError, match="forward-mode"):
        torch.func.jvp(lambda x: modulated_norm(x, x, x), (x,), (x,))


X, VECTOR = torch.zeros(2, 3, 4, 5), torch.zeros(2, 3)
STATISTICS = {"running_mean": torch.zeros(3), "running_var": torch.ones(3)}


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (([1.0], X, X), {}, TypeError, "x: expected a tensor, got list"),
        ((X[0], X, X), {}, ValueError, r"x: expected shape \(B, C, H, W\), got shape \(3, 4, 5\)"),
        ((X.int(), X, X), {}, TypeError, r"x: expected torch.float32 or .*, got torch.int32"),
        ((X, None, X), {}, TypeError, "gamma: expected a tensor, got NoneType"),
        (
            (X, X[:, :2], X),
            {},
            ValueError,
            r"gamma: expected shape \(2, 3, 4, 5\) or shape \(2, 3\), got shape \(2, 2, 4, 5\)",
        ),
        ((X, VECTOR[0], VECTOR), {}, ValueError, "gamma: expected shape"),
        ((X, X.double(), X), {}, TypeError, "gamma: expected torch.float32, got torch.float64"),
        ((X, X.to("meta"), X), {}, ValueError, "gamma: expected device cpu, got meta"),
        ((X, X, 1.0), {}, TypeError, "beta: expected a tensor, got float"),
        ((X, X, VECTOR), {}, ValueError, r"beta: expected shape \(2, 3, 4, 5\), got shape \(2, 3\)"),
        ((X, VECTOR, X), {}, ValueError, r"beta: expected shape \(2, 3\), got shape \(2, 3, 4, 5\)"),
        ((X, X, X.double()), {}, TypeError, "beta: expected torch.float32, got torch.float64"),
        ((X, X, X), {"norm": "layer"}, ValueError, "norm: expected one of .*, got 'layer'"),
        ((X, X, X), {"norm": "batch"}, ValueError, "running_mean: expected a tensor when .* not training"),
        ((X, X, X), {"norm": "instance", **STATISTICS}, ValueError, "running_mean: expected None"),
        ((X, X, X), {"norm": None, **STATISTICS}, ValueError, "running_mean: expected None without a norm"),
        (
            (X, X, X),
            {"norm": "batch", "running_var": torch.zeros(3)},
            ValueError,
            "running_mean, running_var: expected both or neither",
        ),
        (
            (X, X, X),
            {"norm": "batch", **STATISTICS, "running_var": torch.zeros(2)},
            ValueError,
            r"running_var: expected shape \(3,\)",
        ),
        ((X, X, X), {"training": 1}, TypeError, "training: expected True or False, got int"),
        ((X, X, X), {"momentum": 1.5}, ValueError, r"momentum: expected a number in \[0, 1\], got 1.5"),
        ((X, X, X), {"eps": -1e-5}, ValueError, "eps: expected a finite number >= 0"),
        ((X, X, X), {"activation": "gelu"}, ValueError, "activation: expected one of"),
        ((X, X, X), {"negative_slope": math.inf}, ValueError, "negative_slope: expected a finite number"),
        ((X, X, X), {"negative_slope": -0.1}, ValueError, "negative_slope: expected a finite number >= 0"),
    ],
)
def test_wrong_arguments_are_named(arguments, options, error, message):
    with pytest.raises(error, match=f"modulated_norm: {message}"):
        modulated_norm(*arguments, **options)


def test_a_direct_call_of_the_kernel_is_checked_too():
    tensors, options = arguments((2, 3, 4, 5), torch.float32, norm="batch")
    given = backward_arguments(tensors, options)
    for i, wrong, message in (
        (0, given[0][:1], "grad_y: expected shape"),
        (0, given[0].double(), "grad_y: expected Float"),
        (1, given[1][0], "x: expected shape"),
        (2, given[2][:, :1], "gamma: expected shape"),
        (3, given[3][:1], "beta: expected shape"),
        (3, given[3].double(), "beta: expected Float"),
        (4, "layer", "norm: expected"),
        (5, given[5][:1], "mean: expected shape"),
        (6, given[6].double(), "var: expected Float"),
        (9, "gelu", "activation: expected"),
    ):
        with pytest.raises(RuntimeError, match=message):
            BACKWARD(*given[:i], wrong, *given[i + 1 :])
    numbers = False, 1e-5, "leaky_relu", 0.2
    with pytest.raises(RuntimeError, match="running_mean, running_var: expected tensors"):
        OP(*tensors, "batch", None, None, *numbers)
    with pytest.raises(RuntimeError, match="running statistics: expected shape"):
        OP(*tensors, "batch", torch.zeros(2), torch.zeros(2), *numbers)
