"""lifted_fusion: against its definition, patch by patch."""

from __future__ import annotations

import math

import pytest
import torch
from numerics import assert_as_accurate, assert_gradients_of_both_orders, saved_bytes
from sampling import DTYPES, LAYOUTS, leaf, random_image, seed_everything

from pyeqgan import backends
from pyeqgan.benchmarks.machine import peak_bytes
from pyeqgan.functional import lifted_fusion, local_fusion

OP = torch.ops.pyeqgan.lifted_fusion.default
BACKWARD = torch.ops.pyeqgan.lifted_fusion_backward.default

# (B,R,C), the grid, its scale and M: all patches, none, one pixel, no image, no reference, primes, channels off every
# vector, the grid itself (scale 1).
SIZES = (
    ((2, 2, 6), (3, 4), 2, 5),
    ((2, 3, 5), (2, 3), 3, 6),
    ((1, 2, 3), (3, 2), 2, 0),
    ((2, 1, 1), (1, 1), 1, 1),
    ((1, 2, 3), (1, 1), 5, 1),
    ((0, 2, 3), (2, 2), 2, 3),
    ((2, 0, 3), (2, 2), 2, 3),
    ((1, 2, 33), (7, 5), 1, 20),
    ((1, 1, 17), (13, 11), 4, 71),
)


@pytest.fixture(params=["native", "reference"], autouse=True)
def backend(request):
    """Every test runs on the kernel and on the oracle that stands in for it."""
    with backends.force(request.param, "lifted_fusion"):
        yield request.param


def problem(leading, grid, scale, count, dtype, layout="contiguous"):
    """base, references and weights; positions and matches (which may repeat), both of odd strides; the grid."""
    batch, refs, channels = leading
    shape = (channels, scale * grid[0], scale * grid[1])
    base = random_image((batch, *shape), dtype, layout)
    references = random_image((batch * refs, *shape), dtype, layout).unflatten(0, (batch, refs))
    weights = torch.rand(batch, refs + 1, dtype=torch.float64).to(dtype)
    places = [torch.randperm(grid[0] * grid[1])[:count] for _ in range(batch)]
    positions = torch.stack(places) if places else torch.empty(0, count, dtype=torch.int64)
    matches = torch.randint(grid[0] * grid[1], (count, refs, batch)).permute(2, 1, 0)
    return (base, references, weights), (torch.stack([positions, positions - 1], 2)[..., 0], matches, grid)


def definition(base, references, weights, positions, matches, grid):
    """The definition of ops.md, patch by patch, in the dtype of base."""
    scale = base.shape[-1] // grid[1]

    def patch(image, place):
        i, j = (scale * int(k) for k in divmod(int(place), grid[1]))
        return (..., slice(i, i + scale), slice(j, j + scale)) if image is None else image[patch(None, place)]

    images = []
    for b in range(len(base)):
        image = base[b].clone()
        for m, p in enumerate(positions[b]):
            blend = weights[b, 0] * patch(base[b], p)
            for r in range(references.shape[1]):
                blend = blend + weights[b, r + 1] * patch(references[b, r], matches[b, r, m])
            image[patch(None, p)] = blend
        images.append(image)
    return torch.stack(images) if images else base * 1


def run(function, tensors, others, grad):
    inputs = [leaf(t) for t in tensors]
    fused = function(*inputs, *others)
    grads = torch.autograd.grad(fused, inputs, grad.to(fused.dtype), allow_unused=True, materialize_grads=True)
    return [fused, *grads]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_matches_the_definition_as_well_as_plain_pytorch(sizes, dtype):
    seed_everything()
    for layout in LAYOUTS[: 2 if sizes[-1] > 10 else None]:
        tensors, others = problem(*sizes, dtype, layout)
        grad = random_image(tensors[0].shape, dtype, layout)
        ours = run(lifted_fusion, tensors, others, grad)
        plain = run(definition, tensors, others, grad)
        truth = run(definition, [t.double() for t in tensors], others, grad.double())
        # A weight's gradient is a long sum that may nearly cancel: the sum of absolute values is its size.
        magnitudes = run(definition, [t.double().abs() for t in tensors], others, grad.double().abs())
        assert_as_accurate(ours, plain, truth, dtype, [float(m.norm()) for m in magnitudes])


def test_on_the_grid_itself_it_is_the_local_fusion():
    seed_everything()
    tensors, (positions, _, grid) = problem((2, 2, 6), (5, 7), 1, 20, torch.float32)
    fused, matches = local_fusion(*tensors, positions)
    torch.testing.assert_close(lifted_fusion(*tensors, positions, matches, grid), fused)


def test_what_is_not_selected_is_the_base_to_the_bit():
    seed_everything()
    tensors, (positions, matches, grid) = problem((2, 2, 3), (4, 5), 3, 9, torch.float32)
    fused = lifted_fusion(*tensors, positions, matches, grid)
    selected = torch.zeros(2, 20, dtype=torch.bool).scatter(1, positions, True).view(2, 4, 5)
    selected = selected.repeat_interleave(3, 1).repeat_interleave(3, 2)
    assert torch.equal((fused == tensors[0]).all(1), ~selected)
    order = torch.randperm(9)
    assert torch.equal(lifted_fusion(*tensors, positions[:, order], matches[:, :, order], grid), fused)


def test_gradients_of_patches_matched_more_than_once_add_up():
    seed_everything()
    (base, references, weights), (positions, matches, grid) = problem((1, 1, 3), (2, 4), 2, 8, torch.float32)
    references, grad = leaf(references), torch.randn_like(base)
    fused = lifted_fusion(base, references, weights, positions, torch.full_like(matches, 5), grid)
    (found,) = torch.autograd.grad(fused, references, grad)
    patches = grad.view(3, 2, 2, 4, 2).sum((1, 3))
    torch.testing.assert_close(found[0, 0, :, 2:4, 2:4], weights[0, 1] * patches)
    found[0, 0, :, 2:4, 2:4] = 0
    assert not found.any()


def test_nan_stays_where_the_maths_puts_it():
    """A patch's NaN goes, place by place, where the patch goes, and to the gradient of its weight."""
    seed_everything()
    (base, references, weights), (positions, matches, grid) = problem((1, 2, 3), (3, 4), 2, 7, torch.float32)
    references[0, 1, 2, 1, 2] = math.nan  # the place (1, 0) of patch 1
    matches = torch.where(matches == 1, 0, matches)
    matches[0, 1, 3] = 1
    grad = torch.randn_like(base)
    fused, *grads = run(lifted_fusion, (base, references, weights), (positions, matches, grid), grad)
    i, j = divmod(int(positions[0, 3]), 4)
    reached = torch.zeros_like(base, dtype=torch.bool)
    reached[0, 2, 2 * i + 1, 2 * j] = True
    assert torch.equal(fused.isnan(), reached)
    assert grads[0].isfinite().all()
    assert grads[1].isfinite().all()
    assert torch.equal(grads[2].isnan(), torch.tensor([[False, False, True]]))


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "sliced"])
def test_gradients_of_both_orders(layout):
    seed_everything()
    tensors, others = problem((2, 2, 2), (2, 3), 2, 4, torch.float64, layout)
    inputs = [leaf(t) for t in tensors]
    assert_gradients_of_both_orders(lambda *t: lifted_fusion(*t, *others), inputs)


def test_only_the_gradients_asked_for_are_computed():
    tensors, (positions, matches, grid) = problem((2, 2, 3), (3, 4), 2, 5, torch.float32)
    arguments = (torch.randn_like(tensors[0]), *tensors, positions, matches, list(grid))
    every = BACKWARD(*arguments, True, True, True)
    for i in range(3):
        needs = [i == k for k in range(3)]
        for grad, whole, needed in zip(BACKWARD(*arguments, *needs), every, needs, strict=True):
            assert torch.equal(grad, whole) if needed else grad.numel() == 0


@pytest.mark.parametrize("layout", ["channels_last", "sliced"])
def test_opcheck(layout, backend):
    if backend == "reference" and layout == "sliced":
        pytest.skip("one layout tells whether the oracle's results are laid out as the fake says; opcheck is slow")
    seed_everything()
    tensors, (positions, matches, grid) = problem((2, 2, 3), (2, 3), 2, 4, torch.float32, layout)
    arguments = (*map(leaf, tensors), positions, matches, list(grid))
    torch.library.opcheck(OP, arguments)
    torch.library.opcheck(BACKWARD, (leaf(torch.randn_like(tensors[0])), *arguments, True, True, True))


def test_output_keeps_the_memory_format():
    (base, *others), rest = problem((2, 2, 8), (5, 6), 2, 9, torch.float32, "channels_last")
    base.requires_grad_()
    fused = lifted_fusion(base, *others, *rest)
    assert fused.is_contiguous(memory_format=torch.channels_last)
    (grad,) = torch.autograd.grad(fused.sum(), base)
    assert grad.is_contiguous(memory_format=torch.channels_last)


def test_saves_the_arguments():
    tensors, (positions, matches, grid) = problem((2, 3, 6), (4, 4), 2, 9, torch.float32)
    positions, inputs = positions.contiguous(), [leaf(t) for t in tensors]
    numbers, indices = sum(t.numel() for t in tensors), positions.numel() + matches.numel()
    assert saved_bytes(lambda: lifted_fusion(*inputs, positions, matches, grid)) == 4 * numbers + 8 * indices


def test_nothing_gathered_in_memory(backend):
    """Three references' patches, gathered, would be 50 MB; the results and gradients are 17 + 17 + 50."""
    if backend == "reference":
        pytest.skip("the kernel's promise: the oracle gathers")
    tensors, others = problem((1, 3, 64), (128, 128), 2, 128 * 128, torch.float32)
    inputs, grad = [leaf(t) for t in tensors], torch.ones_like(tensors[0])
    peak = peak_bytes(lambda: torch.autograd.grad(lifted_fusion(*inputs, *others), inputs, grad))
    if peak is None:
        pytest.skip("the system does not tell the process's peak")
    assert peak < 105e6


def test_result_does_not_depend_on_the_number_of_threads():
    seed_everything()
    tensors, others = problem((2, 2, 19), (13, 11), 3, 100, torch.float32)
    grad = torch.randn_like(tensors[0])
    threads = torch.get_num_threads()
    try:
        results = []
        for n in (1, 2, 5):
            torch.set_num_threads(n)
            results.append(run(lifted_fusion, tensors, others, grad))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_compiles_without_a_graph_break():
    tensors, others = problem((2, 2, 3), (2, 3), 2, 4, torch.float32)
    inputs = [leaf(t) for t in tensors]

    def loss(*tensors):
        return lifted_fusion(*tensors, *others).square().sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    expected = torch.autograd.grad(loss(*inputs), inputs)
    for a, b in zip(torch.autograd.grad(compiled(*inputs), inputs), expected, strict=True):
        torch.testing.assert_close(a, b)


def test_autocast_computes_in_the_autocast_dtype():
    tensors, others = problem((1, 2, 3), (2, 2), 2, 2, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert lifted_fusion(*tensors, *others).dtype == torch.bfloat16


def test_forward_mode_is_refused():
    (base, *others), rest = problem((1, 2, 3), (2, 2), 2, 2, torch.float32)
    with pytest.raises(NotImplementedError, match="forward-mode"):
        torch.func.jvp(lambda x: lifted_fusion(x, *others, *rest), (base,), (base,))


GOOD = {
    "base": torch.zeros(2, 3, 4, 6),
    "references": torch.zeros(2, 2, 3, 4, 6),
    "weights": torch.zeros(2, 3),
    "positions": torch.tensor([[0, 3, 5], [2, 1, 0]]),
    "matches": torch.tensor([[[0, 5, 5], [1, 2, 3]], [[4, 4, 4], [0, 0, 1]]]),
    "grid": (2, 3),
}


@pytest.mark.parametrize(
    ("name", "change", "error", "message"),
    [
        ("base", lambda x: [1.0], TypeError, "expected a tensor, got list"),
        ("base", lambda x: x[0], ValueError, r"expected shape \(B, C, s·h, s·w\), got shape \(3, 4, 6\)"),
        ("references", lambda x: x[..., :4], ValueError, r"expected shape \(2, R, 3, 4, 6\), got shape"),
        ("references", lambda x: x.double(), TypeError, "expected torch.float32, got torch.float64"),
        ("weights", lambda x: x[:1], ValueError, r"expected shape \(2, 3\), got shape \(1, 3\)"),
        ("positions", lambda x: x.int(), TypeError, "expected torch.int64, got torch.int32"),
        ("positions", lambda x: x + 1, ValueError, r"expected values in \[0, 6\), got 1..6"),
        ("positions", lambda x: x - 1, ValueError, r"expected values in \[0, 6\), got -1..4"),
        ("positions", lambda x: x // 2, ValueError, "expected distinct values in each row, got a repeated one"),
        ("matches", lambda x: x[:, :1], ValueError, r"expected shape \(2, 2, 3\), got shape \(2, 1, 3\)"),
        ("matches", lambda x: x.int(), TypeError, "expected torch.int64, got torch.int32"),
        ("matches", lambda x: x + 1, ValueError, r"expected values in \[0, 6\), got 1..6"),
        ("matches", lambda x: x - 2**62, ValueError, r"expected values in \[0, 6\)"),
        ("grid", lambda x: (4, 3), ValueError, r"expected \(h, w\) with s·h = 4 and s·w = 6 for one integer s, got"),
        ("grid", lambda x: (1, 3), ValueError, r"expected \(h, w\) with s·h = 4 and s·w = 6 for one integer s, got"),
        ("grid", lambda x: (2, 3, 1), ValueError, r"expected two integers \(h, w\), got \(2, 3, 1\)"),
        ("grid", lambda x: (0, 3), ValueError, "expected an integer >= 1, got 0"),
        ("grid", lambda x: (2.0, 3), TypeError, "expected an integer, got float"),
        ("grid", lambda x: 2, TypeError, r"expected a list or tuple of two integers \(h, w\), got int"),
    ],
)
def test_wrong_arguments_are_named(name, change, error, message):
    with pytest.raises(error, match=f"lifted_fusion: {name}: {message}"):
        lifted_fusion(**GOOD | {name: change(GOOD[name])})


def test_a_direct_call_of_the_kernel_is_checked_too(backend):
    if backend == "reference":
        pytest.skip("the oracle's own tensor operations refuse wrong shapes")
    for name, change in (("references", -1), ("weights", -1), ("positions", 6), ("matches", 6), ("grid", None)):
        value = [4, 3] if change is None else GOOD[name][:1] if change < 0 else GOOD[name] + change
        with pytest.raises(RuntimeError, match=f"{name}: expected"):
            OP(*(GOOD | {name: value}).values())
    with pytest.raises(RuntimeError, match="grad_fused: expected shape"):
        BACKWARD(GOOD["base"][:1], *GOOD.values(), True, True, True)
