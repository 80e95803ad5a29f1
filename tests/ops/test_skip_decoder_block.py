"""skip_decoder_block against torch's own layers: joins, norms, activations, dtypes, layouts."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from numerics import KINKED, assert_as_accurate, assert_gradients_of_both_orders, off_the_kink, saved_bytes
from plain import skip_decoder_block as plain
from sampling import DTYPES, IMAGE_SHAPES, LAYOUTS, leaf, random_image, seed_everything

from pyeqgan import backends
from pyeqgan.functional import skip_decoder_block

OP = torch.ops.pyeqgan.skip_decoder_block.default
BACKWARD = torch.ops.pyeqgan.skip_decoder_block_backward.default
JOINS = ("none", "before", "after")
NORMS = {"none": {}, "batch": {"norm": "batch", "training": True}, "given": {"norm": "batch", "training": False}}
NORMS["instance"] = {"norm": "instance"}
# Rounding moves a few values across a kink at zero, in torch's layers too, and chance says whose count for more:
# kinks behind a norm are compared in float64.
SMOOTH = {"activation": "tanh"}
NAMES = ("x", "skip", "weight", "bias", "norm_weight", "norm_bias")


@pytest.fixture(params=["native", "reference"])
def backend(request):
    """Run the test on the kernel and on the oracle that stands in for it."""
    with backends.force(request.param, "skip_decoder_block"):
        yield request.param


def arguments(shape, dtype, *, join="none", norm="none", layout="contiguous", out_channels=5, affine=True):
    """Tensors by name, running statistics, and the norm's options."""
    batch, channels, height, width = shape
    factor = 2 if join == "after" else 1
    skip = None if join == "none" else random_image((batch, 4, factor * height, factor * width), dtype, layout)
    in_channels = channels + (0 if skip is None else 4)

    def parameter(*sizes):
        return torch.randn(sizes, dtype=torch.float64).to(dtype)

    tensors = {
        "x": random_image(shape, dtype, layout),
        "skip": skip,
        "weight": (parameter(out_channels, in_channels, 3, 3).double() / (9 * in_channels) ** 0.5).to(dtype),
        "bias": parameter(out_channels),
        "norm_weight": parameter(out_channels) if affine and norm != "none" else None,
        "norm_bias": parameter(out_channels) if affine and norm != "none" else None,
    }
    running = {}
    if norm in ("batch", "given"):
        running = {"running_mean": parameter(out_channels), "running_var": parameter(out_channels).square() + 0.5}
    return tensors, running, NORMS[norm]


def run(function, tensors, running, options, seed, dtype=None, where=1):
    """Results, gradients and running statistics of one call; none is handed back but ``where`` it says."""
    inputs = {k: None if t is None else leaf(t if dtype is None else t.to(dtype)) for k, t in tensors.items()}
    running = {k: t.clone() if dtype is None else t.to(dtype) for k, t in running.items()}
    y = function(*(inputs[k] for k in NAMES[:4]), **{k: inputs[k] for k in NAMES[4:]}, **running, **options)
    grad = torch.randn(y.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    grad = where * grad.to(tensors["x"].dtype).to(y.dtype)
    wanted = [t for t in inputs.values() if t is not None]
    return y, torch.autograd.grad(y, wanted, grad), list(running.values())


def compare(tensors, running, options, mean=0.0):
    """Ours and torch's layers against the truth; ``mean``: how many deviations from 0 a norm's argument lies."""
    dtype = tensors["x"].dtype
    seed = torch.initial_seed()
    where = 1
    if options["activation"] in KINKED:
        where = off_the_kink(run(plain, tensors, running, {**options, "activation": None}, 0, torch.float64)[0], dtype)
    ours = run(skip_decoder_block, tensors, running, options, seed, where=where)
    by_torch = run(plain, tensors, running, options, seed, where=where)
    truth = run(plain, tensors, running, options, seed, torch.float64, where)
    assert [t.dtype for t in (ours[0], *ours[1], *ours[2])] == [dtype] * (1 + len(ours[1]) + len(ours[2]))
    # Gradients that are zero by nature (a bias before a norm) are noise at every dtype: compare all in one vector.
    joined = [torch.cat([t.double().flatten() for t in result[1]]) for result in (ours, by_torch, truth)]
    for a, b, t in ((ours[:1], by_torch[:1], truth[:1]), ([j] for j in joined), (ours[2], by_torch[2], truth[2])):
        assert_as_accurate(a, b, t, dtype, [mean * float(x.norm()) for x in t])  # the mean's rounding stays with them


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [s for s in IMAGE_SHAPES if s[0]], ids=str)
def test_matches_the_truth_as_well_as_plain_pytorch(shape, dtype, backend):
    seed_everything()
    layouts, activations = itertools.cycle(LAYOUTS), itertools.cycle(("leaky_relu", None, "tanh", "relu"))
    for join, norm in itertools.product(JOINS, NORMS):
        if norm in ("batch", "instance") and math.prod(shape[2:]) == 1:
            continue  # the four outputs of one pixel are equal: what remains after the norm is noise
        activation = next(activations)
        if dtype != torch.float64 and norm != "none":
            activation = "tanh"  # see SMOOTH
        tensors, running, options = arguments(shape, dtype, join=join, norm=norm, layout=next(layouts))
        compare(tensors, running, {**options, "activation": activation})


# Many tiles to an image, several images to a block of tiles, several panels of channels on both sides.
@pytest.mark.parametrize("shape", [(1, 5, 40, 37), (33, 9, 6, 4), (2, 150, 8, 8), (3, 40, 2, 130)], ids=str)
@pytest.mark.parametrize("join", JOINS)
def test_beyond_one_block(shape, join):
    seed_everything()
    for layout, norm in (("contiguous", "batch"), ("channels_last", "instance")):
        given = arguments(shape, torch.float32, join=join, norm=norm, layout=layout, out_channels=70)
        compare(*given[:2], {**given[2], **SMOOTH})


@pytest.mark.parametrize("join", JOINS)
def test_an_empty_batch(join, backend):
    tensors, running, options = arguments((0, 3, 4, 4), torch.float32, join=join, norm="given")
    y, grads, _ = run(skip_decoder_block, tensors, running, options, 0)
    assert y.shape == (0, 5, 8, 8)
    assert all(not g.any() for g in grads)
    tensors, _, options = arguments((0, 3, 4, 4), torch.float32, join=join, norm="instance")
    assert all(not g.any() for g in run(skip_decoder_block, tensors, {}, options, 0)[1])


@pytest.mark.parametrize("join", JOINS)
@pytest.mark.parametrize("norm", NORMS)
def test_gradients_of_both_orders(join, norm, backend):
    seed_everything()
    tensors, running, options = arguments((2, 2, 2, 3), torch.float64, join=join, norm=norm, out_channels=2)
    names = [k for k, t in tensors.items() if t is not None]

    def function(*inputs):
        t = {**dict.fromkeys(NAMES), **dict(zip(names, inputs, strict=True))}
        affine = {k: t[k] for k in NAMES[4:]}
        return skip_decoder_block(*(t[k] for k in NAMES[:4]), **affine, **running, **options, momentum=0.0)

    inputs = [leaf(tensors[k]) for k in names]
    assert_gradients_of_both_orders(function, inputs)


def test_running_statistics_and_gradients_equal_batch_norm():
    """Over several steps, in training and after it, next to the layers it replaces."""
    seed_everything()
    norm = torch.nn.BatchNorm2d(6, momentum=0.3)
    weight = torch.randn(6, 3, 3, 3) / 5
    mean, var = norm.running_mean.clone(), norm.running_var.clone()
    for _ in range(3):
        x = torch.randn(4, 3, 5, 6)
        running = {"running_mean": mean, "running_var": var}
        ours = skip_decoder_block(x, None, weight, norm="batch", **running, training=True, momentum=0.3)
        theirs = F.leaky_relu(norm(plain(x, None, weight, activation=None)), 0.2)
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-5)
        torch.testing.assert_close(mean, norm.running_mean)
        torch.testing.assert_close(var, norm.running_var)
    norm.eval()
    ours = skip_decoder_block(x, None, weight, norm="batch", running_mean=mean, running_var=var)
    torch.testing.assert_close(
        ours, F.leaky_relu(norm(plain(x, None, weight, activation=None)), 0.2), atol=2e-5, rtol=1e-5
    )


def test_statistics_of_a_large_mean_keep_their_precision():
    """Deviations are taken from the mean before they are squared."""
    seed_everything()
    tensors, running, options = arguments((4, 3, 9, 8), torch.float32, norm="batch")
    tensors["bias"] = tensors["bias"] + 1000
    compare(tensors, running, {**options, **SMOOTH}, mean=1000)


def saved_sizes(join, norm):
    tensors, running, options = arguments((2, 3, 4, 5), torch.float32, join=join, norm=norm)
    inputs = {k: None if t is None else leaf(t) for k, t in tensors.items()}

    def call():
        affine = {k: inputs[k] for k in NAMES[4:]}
        return skip_decoder_block(*(inputs[k] for k in NAMES[:4]), **affine, **running, **options)

    given = sum(t.numel() for t in inputs.values() if t is not None)
    return saved_bytes(call), 4 * (given + call().numel())


@pytest.mark.parametrize("join", JOINS)
def test_saves_its_inputs_statistics_and_one_tensor_of_the_output_s_size(join):
    saved, expected = saved_sizes(join, "none")
    assert saved == expected
    saved, expected = saved_sizes(join, "batch")
    assert saved == expected + 4 * 2 * 5
    saved, expected = saved_sizes(join, "instance")
    assert saved == expected + 4 * 2 * 2 * 5


def positional(tensors, running, options, activation="leaky_relu"):
    names = ("x", "skip", "weight", "bias")
    statistics = (running.get("running_mean"), running.get("running_var"))
    training = options.get("training", False)
    return (
        [tensors[k] for k in names] + [options.get("norm"), tensors["norm_weight"], tensors["norm_bias"], *statistics]
        + [training, 1e-5, activation, 0.2]
    )  # fmt: skip


def backward_arguments(tensors, running, options, needs=(True,) * 6):
    forward = positional(tensors, running, options)
    y, pre, mean, var = OP(*(t.detach() if isinstance(t, torch.Tensor) else t for t in forward))
    saved = pre if options.get("norm") else y
    return [torch.randn_like(y), *forward[:7], saved, mean, var, *forward[9:], *needs]


@pytest.mark.parametrize(
    ("join", "norm", "layout"),
    [("none", "none", "contiguous"), ("before", "batch", "channels_last"), ("after", "instance", "sliced"),
     ("after", "given", "offset")],
    ids=str,
)  # fmt: skip
def test_opcheck(join, norm, layout, backend):
    """Schema, fake (shape, dtype, strides) and autograd registration, forward and backward, static and dynamic."""
    if backend == "reference" and layout != "channels_last":
        pytest.skip("one layout tells whether the oracle's results are laid out as the fake says; opcheck is slow")
    seed_everything()
    tensors, running, options = arguments((2, 3, 3, 4), torch.float32, join=join, norm=norm, layout=layout)
    tensors = {k: None if t is None else leaf(t) for k, t in tensors.items()}
    torch.library.opcheck(OP, positional(tensors, running, options))
    needs = [tensors[k] is not None for k in NAMES]
    checks = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
    torch.library.opcheck(BACKWARD, backward_arguments(tensors, running, options, needs), test_utils=checks)


def test_output_keeps_the_memory_format(backend):
    x, skip = (leaf(random_image((2, 8, 5, 6), torch.float32, "channels_last")) for _ in range(2))
    y = skip_decoder_block(x, skip, torch.randn(3, 16, 3, 3), norm="batch", training=True)
    assert y.is_contiguous(memory_format=torch.channels_last)
    for grad in torch.autograd.grad(y.square().sum(), (x, skip)):
        assert grad.is_contiguous(memory_format=torch.channels_last)


def test_only_the_gradients_asked_for_are_computed():
    tensors, running, options = arguments((2, 3, 4, 5), torch.float32, join="after", norm="batch")
    given = backward_arguments(tensors, running, options)
    everything = BACKWARD(*given)
    for i in range(6):
        alone = BACKWARD(*given[:-6], *(j == i for j in range(6)))
        assert torch.equal(alone[i], everything[i])
        assert all(alone[j].numel() == 0 for j in range(6) if j != i)


@pytest.mark.parametrize("join", JOINS)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_result_does_not_depend_on_the_number_of_threads(join, layout):
    seed_everything()
    given = arguments((5, 20, 19, 23), torch.float32, join=join, norm="batch", layout=layout, out_channels=40)
    threads = torch.get_num_threads()
    try:
        results = []
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            y, grads, statistics = run(skip_decoder_block, *given, 0)
            results.append([y, *grads, *statistics])
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e35, 1e-42])
@pytest.mark.parametrize("where", ["x", "skip", "weight"])
@pytest.mark.parametrize("join", ["before", "after"])
def test_a_value_goes_no_further_than_its_neighbourhood(where, join, value):
    """Not over the tile that Winograd's sums would spread it over; denormal numbers are as good as any."""
    seed_everything()
    tensors, _, _ = arguments((2, 4, 7, 8), torch.float32, join=join)
    tensors[where][(1, 3, 2, 1) if where == "weight" else (1, 3, 4, 3)] = value
    results = []
    for function in (skip_decoder_block, plain):
        y, grads, _ = run(function, tensors, {}, {"activation": None}, 0)
        results.append([y.detach(), *grads])
    for ours, expected in zip(*results, strict=True):
        finite = expected.isfinite()
        assert torch.equal(ours.isfinite(), finite)
        largest = expected[finite].abs().amax()
        assert (ours[finite] - expected[finite]).abs().amax() <= 1e-5 * largest


def test_compiles_without_a_graph_break():
    def loss(x, skip, weight, mean, var):
        return skip_decoder_block(
            x, skip, weight, norm="batch", running_mean=mean, running_var=var, training=True
        ).square().sum()  # fmt: skip

    x, skip, weight = (leaf(torch.randn(s)) for s in ((2, 3, 4, 5), (2, 2, 8, 10), (4, 5, 3, 3)))
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    statistics = [[torch.zeros(4), torch.ones(4)] for _ in range(2)]
    expected = torch.autograd.grad(loss(x, skip, weight, *statistics[0]), (x, skip, weight))
    ours = torch.autograd.grad(compiled(x, skip, weight, *statistics[1]), (x, skip, weight))
    for a, b in zip((*ours, *statistics[1]), (*expected, *statistics[0]), strict=True):
        torch.testing.assert_close(a, b)


def test_autocast_computes_in_the_autocast_dtype():
    x, weight = torch.randn(2, 3, 4, 4), torch.randn(5, 3, 3, 3)
    options = {"norm": "batch", "training": True, "running_mean": torch.zeros(5), "running_var": torch.ones(5)}
    with torch.autocast("cpu", torch.bfloat16):
        assert skip_decoder_block(x, None, weight, **options).dtype == torch.bfloat16
    assert options["running_mean"].dtype == torch.float32
    assert options["running_mean"].any()


def test_forward_mode_is_refused():
    x, weight = torch.randn(1, 2, 3, 3), torch.randn(2, 2, 3, 3)
    with pytest.raises(NotImplementedError, match="forward-mode"):
        torch.func.jvp(lambda x: skip_decoder_block(x, None, weight), (x,), (x,))


X, SKIP, WEIGHT = torch.zeros(2, 3, 4, 5), torch.zeros(2, 2, 8, 10), torch.zeros(6, 5, 3, 3)
STATISTICS = {"running_mean": torch.zeros(6), "running_var": torch.ones(6)}


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (([1.0], SKIP, WEIGHT), {}, TypeError, "x: expected a tensor, got list"),
        ((X[0], SKIP, WEIGHT), {}, ValueError, r"x: expected shape \(B, Cx, H, W\), got shape \(3, 4, 5\)"),
        ((X[:, :, :0], None, WEIGHT), {}, ValueError, "x: expected H and W >= 1"),
        ((X, SKIP[:1], WEIGHT), {}, ValueError, r"skip: expected shape \(2, Cs, H, W\), got shape \(1, 2, 8, 10\)"),
        ((X, SKIP[:, :, 1:], WEIGHT), {}, ValueError, r"skip: expected size \(4, 5\) or \(8, 10\), got size \(7, 10\)"),
        ((X, SKIP.double(), WEIGHT), {}, TypeError, "skip: expected torch.float32, got torch.float64"),
        ((X, None, WEIGHT), {}, ValueError, r"weight: expected shape \(Co, 3, 3, 3\), got shape \(6, 5, 3, 3\)"),
        ((X, SKIP, WEIGHT[..., :2]), {}, ValueError, "weight: expected shape"),
        ((X, SKIP, WEIGHT, torch.zeros(5)), {}, ValueError, r"bias: expected shape \(6,\)"),
        ((X, SKIP, WEIGHT), {"norm": "layer"}, ValueError, "norm: expected one of .*, got 'layer'"),
        ((X, SKIP, WEIGHT), {"norm": "batch"}, ValueError, "running_mean: expected a tensor when .* not training"),
        ((X, SKIP, WEIGHT), {"norm": "instance", **STATISTICS}, ValueError, "running_mean: expected None"),
        (
            (X, SKIP, WEIGHT),
            {"norm": "batch", "running_mean": torch.zeros(6)},
            ValueError,
            "running_mean, running_var: expected both or neither",
        ),
        ((X, SKIP, WEIGHT), {"norm_weight": torch.zeros(6)}, ValueError, "norm_weight: expected None without a norm"),
        (
            (X, SKIP, WEIGHT),
            {"norm": "instance", "norm_bias": torch.zeros(5)},
            ValueError,
            r"norm_bias: expected shape \(6,\)",
        ),
        ((X, SKIP, WEIGHT), {"momentum": 1.5}, ValueError, r"momentum: expected a number in \[0, 1\], got 1.5"),
        ((X, SKIP, WEIGHT), {"eps": -1e-5}, ValueError, "eps: expected a finite number >= 0"),
        ((X, SKIP, WEIGHT), {"activation": "gelu"}, ValueError, "activation: expected one of"),
        ((X, SKIP, WEIGHT), {"negative_slope": math.inf}, ValueError, "negative_slope: expected a finite number"),
    ],
)
def test_wrong_arguments_are_named(arguments, options, error, message):
    with pytest.raises(error, match=f"skip_decoder_block: {message}"):
        skip_decoder_block(*arguments, **options)


def test_a_direct_call_of_the_kernel_is_checked_too():
    tensors, running, options = arguments((2, 3, 4, 5), torch.float32, join="after", norm="batch")
    given = backward_arguments(tensors, running, options)
    for i, wrong, message in (
        (0, given[0][:1], "grad_y: expected shape"),
        (0, given[0].double(), "grad_y: expected Float"),
        (1, given[1][:, :1], "weight: expected shape"),
        (2, given[2][:1], "skip: expected shape"),
        (3, given[3][:, :, :1], "weight: expected shape"),
        (5, "layer", "norm: expected"),
        (6, given[6][:1], "norm_weight: expected shape"),
        (8, given[8][:, :1], "saved: expected shape"),
        (9, given[9][:1], "mean: expected shape"),
        (13, "gelu", "activation: expected"),
    ):
        with pytest.raises(RuntimeError, match=message):
            BACKWARD(*given[:i], wrong, *given[i + 1 :])
    forward = positional(tensors, running, options)
    with pytest.raises(RuntimeError, match="running_mean, running_var: expected tensors"):
        OP(*forward[:7], None, None, False, *forward[10:])
    with pytest.raises(RuntimeError, match="bias: expected shape"):
        OP(*forward[:3], torch.zeros(1), *forward[4:])
