"""local_fusion: against its definition, position by position, and its matches against every similarity."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from numerics import assert_as_accurate, assert_gradients_of_both_orders, relative_error, saved_bytes
from sampling import DTYPES, LAYOUTS, leaf, random_image, seed_everything

from pyeqgan import backends
from pyeqgan.benchmarks.machine import peak_bytes
from pyeqgan.functional import local_fusion

OP = torch.ops.pyeqgan.local_fusion.default

# (B,R,C,H,W) and M: all of the positions, none, one pixel, no image, no reference, primes, more than a block of
# references (256) and of positions (512), channels off every vector.
SIZES = (
    ((2, 2, 6, 5, 7), 20),
    ((2, 3, 5, 4, 3), 12),
    ((1, 2, 3, 4, 4), 0),
    ((3, 1, 1, 1, 1), 1),
    ((0, 2, 3, 4, 4), 5),
    ((2, 0, 3, 4, 4), 5),
    ((1, 1, 17, 23, 29), 530),
    ((1, 3, 33, 1, 19), 7),
)


@pytest.fixture(params=["native", "reference"], autouse=True)
def backend(request):
    """Every test runs on the kernel and on the oracle that stands in for it."""
    with backends.force(request.param, "local_fusion"), backends.force(request.param, "lifted_fusion"):
        yield request.param


@pytest.fixture
def native(backend):
    if backend != "native":
        pytest.skip("the kernel's promise: the oracle stores the similarities, and torch sums them as it likes")


def problem(sizes, count, dtype, layout="contiguous"):
    """base, references, weights and positions; base and references in the layout, positions sliced."""
    batch, refs, channels, height, width = sizes
    base = random_image((batch, channels, height, width), dtype, layout)
    references = random_image((batch * refs, channels, height, width), dtype, layout).unflatten(0, (batch, refs))
    weights = torch.rand(batch, refs + 1, dtype=torch.float64).to(dtype)
    places = [torch.randperm(height * width)[:count] for _ in range(batch)]
    positions = torch.stack(places) if places else torch.empty(0, count, dtype=torch.int64)
    return base, references, weights, torch.stack([positions, positions - 1], 2)[..., 0]


def similarities(base, references, positions, b, r, m):
    """Of one position to every pixel of a reference, in float64."""
    pixels = references[b, r].flatten(1).double()
    units = pixels / pixels.norm(dim=0).clamp_min(1e-12)
    return units.T @ base[b].flatten(1)[:, positions[b, m]].double()


def blend(base, references, weights, positions, matches):
    """The definition of ops.md, position by position, in the dtype of base."""
    images = []
    for b in range(len(base)):
        columns = list(base[b].flatten(1).unbind(1))
        for m, p in enumerate(positions[b].tolist()):
            columns[p] = weights[b, 0] * columns[p]
            for r in range(references.shape[1]):
                columns[p] = columns[p] + weights[b, r + 1] * references[b, r].flatten(1)[:, matches[b, r, m]]
        images.append(torch.stack(columns, 1))
    return torch.stack(images).view(base.shape) if images else base * 1


def run(function, tensors, others, grad):
    inputs = [leaf(t) for t in tensors]
    fused = function(*inputs, *others)
    fused = fused[0] if function is local_fusion else fused
    grads = torch.autograd.grad(fused, inputs, grad.to(fused.dtype), allow_unused=True, materialize_grads=True)
    return [fused, *grads]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_matches_the_definition_as_well_as_plain_pytorch(sizes, dtype):
    seed_everything()
    (batch, refs, *_), count = sizes
    for layout in LAYOUTS[: 2 if count > 100 else None]:
        *tensors, positions = problem(*sizes, dtype, layout)
        matches = local_fusion(*tensors, positions)[1]
        assert matches.shape == (batch, refs, count)
        slack = 1e-13 if dtype == torch.float64 else 1e-5
        for b, r, m in itertools.product(range(batch), range(refs), range(count)):
            found = similarities(*tensors[:2], positions, b, r, m)
            assert found[matches[b, r, m]] >= found.max() - slack * found.norm()
        grad = random_image(tensors[0].shape, dtype, layout)
        ours = run(local_fusion, tensors, (positions,), grad)
        plain = run(blend, tensors, (positions, matches), grad)
        truth = run(blend, [t.double() for t in tensors], (positions, matches), grad.double())
        # A weight's gradient is a long sum that may nearly cancel: the sum of absolute values is its size.
        magnitudes = run(blend, [t.double().abs() for t in tensors], (positions, matches), grad.double().abs())
        assert_as_accurate(ours, plain, truth, dtype, [float(m.norm()) for m in magnitudes])


def test_matches_are_exactly_the_definition_s_in_float64():
    seed_everything()
    *tensors, positions = problem((2, 2, 7, 6, 9), 30, torch.float64)
    matches = local_fusion(*tensors, positions)[1]
    for b, r, m in itertools.product(range(2), range(2), range(30)):
        assert matches[b, r, m] == similarities(*tensors[:2], positions, b, r, m).argmax()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_lowest_of_equal_pixels_is_the_match(dtype):
    """Every reference pixel four times, far apart (and at twice or four times the length) or side by side."""
    seed_everything()
    base = random_image((1, 5, 18, 20), dtype)
    quarter = random_image((2, 5, 9, 10), dtype).flatten(2)
    pixels = torch.cat([quarter, 2 * quarter, quarter, 4 * quarter], 2)
    matches = local_fusion(base, pixels.view(1, 2, 5, 18, 20), torch.rand(1, 3).to(dtype), torch.arange(360)[None])[1]
    assert matches.max() < 90
    doubled = quarter.repeat_interleave(4, 2).view(1, 2, 5, 18, 20)
    matches = local_fusion(base, doubled, torch.rand(1, 3).to(dtype), torch.arange(360)[None])[1]
    assert not (matches % 4).any()


def test_references_without_length():
    """All of a reference's similarities are 0: the first pixel is the match, and the blend is finite."""
    base, weights, positions = torch.randn(1, 3, 4, 5), torch.rand(1, 2), torch.arange(20)[None]
    fused, matches = local_fusion(base, torch.zeros(1, 1, 3, 4, 5), weights, positions)
    assert not matches.any()
    torch.testing.assert_close(fused, weights[0, 0] * base)
    references = torch.zeros(1, 1, 3, 4, 5)
    references[..., 2, 3] = -base[0, :, 1, 1]  # opposite to one position: any of the zeros is better
    matches = local_fusion(base, references, weights, torch.tensor([[6]]))[1]
    assert matches.item() == 0


@pytest.mark.parametrize("scale", [2.0**-33, 2.0**80])
def test_references_of_any_length(scale, native):
    """The direction decides, from the clamp of 1e-12 up to where the square of a norm is beyond float32."""
    seed_everything()
    base, references, weights, positions = problem((1, 2, 6, 5, 7), 35, torch.float32)
    matches = local_fusion(base, scale * references, weights, positions)[1]
    assert torch.equal(matches, local_fusion(base, references, weights, positions)[1])


def test_base_of_any_length():
    seed_everything()
    base, references, weights, positions = problem((1, 2, 6, 5, 7), 35, torch.float32)
    expected = local_fusion(base, references, weights, positions)[1]
    for scale in (2.0**-100, 2.0**100):
        assert torch.equal(local_fusion(base * scale, references, weights, positions)[1], expected)


def test_nan_stays_where_the_maths_puts_it():
    """As in torch's argmax NaN is the largest: a NaN pixel is everybody's match; a NaN position spoils itself."""
    base, references, weights, positions = problem((1, 2, 3, 4, 5), 9, torch.float32)
    references[0, 1, 1, 2, 3] = math.nan
    fused, matches = local_fusion(base, references, weights, positions)
    assert (matches[0, 1] == 13).all()
    selected = torch.zeros(20, dtype=torch.bool).index_fill(0, positions[0], True).view(4, 5)
    assert torch.equal(fused[0, 1].isnan(), selected)
    assert fused[0, [0, 2]].isfinite().all()

    base, references, weights, positions = problem((1, 2, 3, 4, 5), 9, torch.float32)
    spoiled = base.clone()
    spoiled.flatten(2)[0, 1, positions[0, 4]] = math.nan
    fused, matches = local_fusion(spoiled, references, weights, positions)
    reached = torch.zeros_like(base, dtype=torch.bool)
    reached.flatten(2)[0, 1, positions[0, 4]] = True
    assert torch.equal(fused.isnan(), reached)
    assert not matches[0, :, 4].any()  # all NaN: the first


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "sliced"])
def test_gradients_of_both_orders(layout):
    seed_everything()
    *tensors, positions = problem((2, 2, 3, 3, 4), 5, torch.float64, layout)
    inputs = [leaf(t) for t in tensors]

    def fused(*tensors):
        return local_fusion(*tensors, positions)[0]

    assert_gradients_of_both_orders(fused, inputs)


def test_gradients_of_pixels_matched_more_than_once_add_up():
    base = torch.randn(1, 3, 2, 4)
    references = leaf(torch.zeros(1, 1, 3, 2, 4))  # every position matches pixel 0
    weights = torch.tensor([[0.3, 0.7]])
    grad = torch.randn(1, 3, 2, 4)
    fused, _ = local_fusion(base, references, weights, torch.arange(8)[None])
    (found,) = torch.autograd.grad(fused, references, grad)
    torch.testing.assert_close(found[0, 0, :, 0, 0], 0.7 * grad[0].sum((1, 2)))
    assert not found.flatten(3)[..., 1:].any()


@pytest.mark.parametrize(
    ("sizes", "layout"), [((2, 2, 3, 4, 5), "channels_last"), ((2, 1, 3, 4, 5), "sliced")], ids=str
)
def test_opcheck(sizes, layout):
    seed_everything()
    *tensors, positions = problem(sizes, 7, torch.float32, layout)
    torch.library.opcheck(OP, (*map(leaf, tensors), positions))


def test_output_keeps_the_memory_format():
    base, *others = problem((2, 2, 8, 5, 6), 9, torch.float32, "channels_last")
    base.requires_grad_()
    fused = local_fusion(base, *others)[0]
    assert fused.is_contiguous(memory_format=torch.channels_last)
    (grad,) = torch.autograd.grad(fused.sum(), base)
    assert grad.is_contiguous(memory_format=torch.channels_last)


def test_saves_the_arguments_and_the_matches():
    base, references, weights, positions = problem((2, 3, 6, 8, 8), 20, torch.float32)
    numbers = base.numel() + references.numel() + weights.numel()
    positions = positions.contiguous()
    inputs = [leaf(t) for t in (base, references, weights)]
    assert saved_bytes(lambda: local_fusion(*inputs, positions)) == 4 * numbers + 8 * (positions.numel() + 2 * 3 * 20)


def test_no_similarities_in_memory(native):
    """The M×HW similarities would be 268 MB."""
    base, references, weights, positions = problem((1, 1, 2, 64, 128), 64 * 128, torch.float32)
    inputs = [leaf(t) for t in (base, references, weights)]
    local_fusion(base[..., :4, :4], references[..., :4, :4], weights, torch.arange(16)[None])
    peak = peak_bytes(lambda: local_fusion(*inputs, positions)[0].sum().backward())
    if peak is None:
        pytest.skip("the system does not tell the process's peak")
    assert peak < 30e6


def test_result_does_not_depend_on_the_number_of_threads(native):
    seed_everything()
    *tensors, positions = problem((2, 2, 19, 25, 31), 600, torch.float32)
    grad = torch.randn_like(tensors[0])
    threads = torch.get_num_threads()
    try:
        results = []
        for n in (1, 2, 5):
            torch.set_num_threads(n)
            results.append(run(local_fusion, tensors, (positions,), grad))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_compiles_without_a_graph_break():
    *tensors, positions = problem((2, 2, 3, 4, 5), 7, torch.float32)
    inputs = [leaf(t) for t in tensors]

    def loss(*tensors):
        return local_fusion(*tensors, positions)[0].square().sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    expected = torch.autograd.grad(loss(*inputs), inputs)
    for a, b in zip(torch.autograd.grad(compiled(*inputs), inputs), expected, strict=True):
        torch.testing.assert_close(a, b)


def test_autocast_computes_in_the_autocast_dtype():
    *tensors, positions = problem((1, 2, 3, 4, 4), 5, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        fused, matches = local_fusion(*tensors, positions)
    assert (fused.dtype, matches.dtype) == (torch.bfloat16, torch.int64)


def test_forward_mode_is_refused():
    base, *others = problem((1, 2, 3, 4, 4), 5, torch.float32)
    with pytest.raises(NotImplementedError, match="forward-mode"):
        torch.func.jvp(lambda x: local_fusion(x, *others)[0], (base,), (base,))


BASE, REFERENCES, WEIGHTS = torch.zeros(2, 3, 4, 5), torch.zeros(2, 2, 3, 4, 5), torch.zeros(2, 3)
POSITIONS = torch.tensor([[0, 7, 19], [3, 2, 1]])
GOOD = {"base": BASE, "references": REFERENCES, "weights": WEIGHTS, "positions": POSITIONS}


@pytest.mark.parametrize(
    ("name", "value", "error", "message"),
    [
        ("base", [1.0], TypeError, "expected a tensor, got list"),
        ("base", BASE[0], ValueError, r"expected shape \(B, C, H, W\), got shape \(3, 4, 5\)"),
        ("base", BASE.int(), TypeError, "expected torch.float32 or .*, got torch.int32"),
        ("references", REFERENCES[0], ValueError, r"expected shape \(B, R, C, H, W\), got shape"),
        ("references", REFERENCES[..., :4], ValueError, r"expected shape \(2, R, 3, 4, 5\), got shape"),
        ("references", REFERENCES.double(), TypeError, "expected torch.float32, got torch.float64"),
        ("references", REFERENCES.to("meta"), ValueError, "expected device cpu, got meta"),
        ("weights", WEIGHTS[:, :2], ValueError, r"expected shape \(2, 3\), got shape \(2, 2\)"),
        ("weights", WEIGHTS.half(), TypeError, "expected torch.float32, got torch.float16"),
        ("positions", POSITIONS[:1], ValueError, r"expected shape \(2, M\), got shape \(1, 3\)"),
        ("positions", POSITIONS.int(), TypeError, "expected torch.int64, got torch.int32"),
        ("positions", POSITIONS + 1, ValueError, r"expected values in \[0, 20\), got 1..20"),
        ("positions", POSITIONS - 1, ValueError, r"expected values in \[0, 20\), got -1..18"),
        ("positions", POSITIONS + 2**62, ValueError, r"expected values in \[0, 20\)"),
        ("positions", POSITIONS % 7, ValueError, "expected distinct values in each row, got a repeated one"),
    ],
)
def test_wrong_arguments_are_named(name, value, error, message):
    with pytest.raises(error, match=f"local_fusion: {name}: {message}"):
        local_fusion(**GOOD | {name: value})


def test_a_direct_call_of_the_kernel_is_checked_too(native):
    for name, value in (("references", REFERENCES[:1]), ("weights", WEIGHTS[:1]), ("positions", POSITIONS + 1)):
        with pytest.raises(RuntimeError, match=f"{name}: expected"):
            OP(*(GOOD | {name: value}).values())


def test_selected_and_other_positions():
    """What is not selected is the base, to the bit; what is selected is not, and order does not matter."""
    seed_everything()
    base, references, weights, positions = problem((2, 2, 3, 4, 5), 7, torch.float32)
    fused, matches = local_fusion(base, references, weights, positions)
    same = (fused == base).all(1).flatten(1)
    selected = torch.zeros_like(same).scatter(1, positions, True)
    assert torch.equal(same, ~selected)
    turned, found = local_fusion(base, references, weights, positions.flip(1))
    assert torch.equal(turned, fused)
    assert torch.equal(found.flip(2), matches)
    assert relative_error(local_fusion(base, references[:, :0], weights[:, :1], positions[:, :0])[0], base) == 0
