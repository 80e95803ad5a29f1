"""The Triton kernels of local_fusion and lifted_fusion in Triton's interpreter, against the oracle.

Collected by test_triton_interpreter.py alone, in a process that has TRITON_INTERPRET=1 from its start: bfloat16 is left
out, because the interpreter computes it wrongly, and tf32 is computed as float32 (both count only on a GPU).
"""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import triton
import triton.language as tl
from numerics import assert_as_accurate
from sampling import LAYOUTS, leaf, random_image, seed_everything

from pyeqgan import backends, reference
from pyeqgan.functional import lifted_fusion, local_fusion
from pyeqgan.kernels import lifted_fusion as kernels
from pyeqgan.kernels.local_fusion import ordered

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::DeprecationWarning")

# (B,R,C), the grid, its scale and M: all patches, none, one pixel, no image, no reference, channels and pixels off and
# beyond a tile (16 channels, 32 of a product; 128 positions and candidates, 256 pixels).
SIZES = (
    ((2, 2, 6), (3, 4), 2, 5),
    ((2, 3, 5), (2, 3), 3, 6),
    ((1, 2, 3), (3, 2), 2, 0),
    ((2, 1, 1), (1, 1), 1, 1),
    ((0, 2, 3), (2, 2), 2, 3),
    ((2, 0, 3), (2, 2), 2, 3),
    ((1, 2, 37), (13, 11), 1, 130),
    ((1, 1, 17), (7, 5), 4, 31),
)


@pytest.fixture(autouse=True)
def backend():
    with backends.force("triton", "local_fusion", "lifted_fusion"):
        yield


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


def run(function, tensors, others, grad):
    inputs = [leaf(t) for t in tensors]
    fused = function(*inputs, *others)
    return [fused.detach(), *torch.autograd.grad(fused, inputs, grad.to(fused.dtype))]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_lifted_fusion_matches_the_truth_as_well_as_plain_pytorch(sizes, dtype):
    seed_everything()
    layout = LAYOUTS[(SIZES.index(sizes) + 3 * (dtype == torch.float16)) % len(LAYOUTS)]
    tensors, others = problem(*sizes, dtype, layout)
    grad = random_image(tensors[0].shape, dtype, layout)
    ours = run(lifted_fusion, tensors, others, grad)
    plain = run(reference.lifted_fusion, tensors, others, grad)
    truth = run(reference.lifted_fusion, [t.double() for t in tensors], others, grad.double())
    # A weight's gradient is a long sum that may nearly cancel: the sum of absolute values is its size.
    magnitudes = run(reference.lifted_fusion, [t.double().abs() for t in tensors], others, grad.double().abs())
    assert_as_accurate(ours, plain, truth, dtype, [float(m.norm()) for m in magnitudes])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("sizes", [s for s in SIZES if s[2] == 1] + [SIZES[0], SIZES[5]], ids=str)
def test_local_fusion_matches_the_most_similar_pixel(sizes, dtype):
    seed_everything()
    layout = LAYOUTS[(SIZES.index(sizes) + 3 * (dtype == torch.float16)) % len(LAYOUTS)]
    (base, references, weights), (positions, _, _) = problem(*sizes, dtype, layout)
    fused, matches = local_fusion(base, references, weights, positions)
    unit = references.double() / references.double().norm(dim=2, keepdim=True).clamp_min(1e-12)
    rows = base.double().flatten(2).gather(2, positions[:, None].expand(-1, base.shape[1], -1))
    similarity = torch.einsum("bcm,brcn->brmn", rows, unit.flatten(3))
    assert matches.shape == similarity.shape[:3]
    found = similarity.gather(3, matches[..., None])[..., 0]
    assert (found >= similarity.amax(3) - 1e-5 * similarity.norm(dim=3)).all()
    grid = base.shape[2:]
    assert torch.equal(fused, lifted_fusion(base, references, weights, positions, matches, grid))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_the_lowest_of_equal_pixels_is_the_match(dtype):
    """Every reference pixel four times, far apart (and at twice or four times the length) or side by side."""
    seed_everything()
    base = random_image((1, 5, 18, 20), dtype)
    quarter = random_image((2, 5, 9, 10), dtype).flatten(2)
    pixels = torch.cat([quarter, 2 * quarter, quarter, 4 * quarter], 2)
    weights, positions = torch.rand(1, 3).to(dtype), torch.arange(360)[None]
    matches = local_fusion(base, pixels.view(1, 2, 5, 18, 20), weights, positions)[1]
    assert matches.max() < 90
    doubled = quarter.repeat_interleave(4, 2).view(1, 2, 5, 18, 20)
    assert not (local_fusion(base, doubled, weights, positions)[1] % 4).any()


def test_references_without_length():
    """All of a reference's similarities are 0, of either sign: the first pixel is the match, the blend is finite."""
    base, weights, positions = torch.randn(1, 3, 4, 5), torch.rand(1, 2), torch.arange(20)[None]
    references = torch.zeros(1, 1, 3, 4, 5).copysign(torch.randn(1, 1, 3, 4, 5))
    fused, matches = local_fusion(base, references, weights, positions)
    assert not matches.any()
    torch.testing.assert_close(fused, weights[0, 0] * base)
    references[..., 2, 3] = -base[0, :, 1, 1]  # opposite to one position: any of the zeros is better
    assert local_fusion(base, references, weights, torch.tensor([[6]]))[1].item() == 0


def test_nan_stays_where_the_maths_puts_it():
    """As in torch's argmax NaN is the largest: a NaN pixel is everybody's match; a NaN position spoils itself."""
    seed_everything()
    (base, references, weights), (positions, _, _) = problem((1, 2, 3), (4, 5), 1, 9, torch.float32)
    spoiled = references.clone()
    spoiled[0, 1, 1, 2, 3] = math.nan
    fused, matches = local_fusion(base, spoiled, weights, positions)
    assert (matches[0, 1] == 13).all()
    selected = torch.zeros(20, dtype=torch.bool).index_fill(0, positions[0], True).view(4, 5)
    assert torch.equal(fused[0, 1].isnan(), selected)
    assert fused[0, [0, 2]].isfinite().all()
    spoiled = base.clone()
    spoiled.flatten(2)[0, 1, positions[0, 4]] = math.nan
    fused, matches = local_fusion(spoiled, references, weights, positions)
    reached = torch.zeros_like(base, dtype=torch.bool)
    reached.flatten(2)[0, 1, positions[0, 4]] = True
    assert torch.equal(fused.isnan(), reached)
    assert not matches[0, :, 4].any()  # all NaN: the first


def test_nan_of_patches_and_of_gradients_stays_in_its_place():
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
    assert grads[0].isfinite().all() and grads[1].isfinite().all()
    assert torch.equal(grads[2].isnan(), torch.tensor([[False, False, True]]))
    unselected = next(p for p in range(12) if p not in positions[0])
    grad[0, 1, unselected // 4 * 2, unselected % 4 * 2] = math.nan  # reaches the base alone
    _, *grads = run(lifted_fusion, (base, references.nan_to_num(), weights), (positions, matches, grid), grad)
    assert grads[0].isnan().sum() == 1 and grads[1].isfinite().all() and grads[2].isfinite().all()


def test_what_is_not_selected_is_the_base_to_the_bit_in_its_memory_format():
    seed_everything()
    for layout in LAYOUTS:
        tensors, (positions, matches, grid) = problem((2, 2, 3), (4, 5), 3, 9, torch.float32, layout)
        fused, *grads = run(lifted_fusion, tensors, (positions, matches, grid), torch.ones(2, 3, 12, 15))
        selected = torch.zeros(2, 20, dtype=torch.bool).scatter(1, positions, True).view(2, 4, 5)
        selected = selected.repeat_interleave(3, 1).repeat_interleave(3, 2)
        assert torch.equal((fused == tensors[0]).all(1), ~selected)
        expected = torch._prims_common.suggest_memory_format(tensors[0])
        for image in (fused, grads[0], grads[1][0]):
            assert image.is_contiguous(memory_format=expected)


def test_only_what_is_asked_for_is_computed():
    seed_everything()
    tensors, others = problem((2, 2, 3), (3, 4), 2, 7, torch.float32)
    grad = torch.randn_like(tensors[0])
    every = kernels.backward(grad, *tensors, *others, True, True, True)
    for needs in itertools.product((False, True), repeat=3):
        for one, whole, needed in zip(kernels.backward(grad, *tensors, *others, *needs), every, needs, strict=True):
            assert torch.equal(one, whole) if needed else one.shape == (0,)


def test_float64_is_refused():
    tensors, (positions, matches, grid) = problem((1, 1, 2), (2, 2), 1, 2, torch.float64)
    for function, others in ((local_fusion, (positions,)), (lifted_fusion, (positions, matches, grid))):
        with pytest.raises(TypeError, match="base: expected float32, bfloat16 or float16, got torch"):
            function(*tensors, *others)


def test_more_cells_than_an_int32_counts_are_refused():
    base = torch.zeros(1, 1, 1, 1).expand(1, 1, 2**16, 2**15)
    with pytest.raises(ValueError, match="grid: expected at most 2147482624 cells, got 2147483648"):
        local_fusion(base, base[None], torch.ones(1, 2), torch.zeros(1, 1, dtype=torch.int64))


def test_strides_beyond_two_to_the_31(tmp_path):
    """Small images and references whose strides are larger than any int32, in a sparse file."""
    seed_everything()
    far = 2**31 + 8
    file = tmp_path / "sparse"
    flat = torch.from_file(str(file), shared=True, size=16 * far, dtype=torch.float16)
    file.unlink()
    (base, references, weights), (positions, matches, grid) = problem((2, 2, 2), (2, 2), 2, 3, torch.float16)
    far_base = flat[:].as_strided(base.shape, (far, 3 * far, 8, 1)).copy_(base)
    far_references = flat[1024:].as_strided(references.shape, (3 * far, far, 64, 8, 1)).copy_(references)
    far_grad = flat[4096:].as_strided(base.shape, (64, 16, far, 4 * far)).copy_(base)
    others, needs = (positions, matches, grid), (True, True, True)
    near = kernels.backward(base, base, references, weights, *others, *needs)
    found = kernels.backward(far_grad, far_base, far_references, weights, *others, *needs)
    assert all(torch.equal(a, b) for a, b in zip(near, found, strict=True))
    pixel = 2**28 + 8  # sixteen of them
    far_references = flat[2048:].as_strided(references.shape, (16, 8, far, 4 * pixel, pixel)).copy_(references)
    for tensor, copy in ((base, far_base), (base, far_grad), (references, far_references)):
        assert torch.equal(tensor, copy)
    near, found = (
        local_fusion(b, r, weights, torch.arange(16).expand(2, 16))
        for b, r in ((base, references), (far_base, far_references))
    )
    assert all(torch.equal(a, b) for a, b in zip(near, found, strict=True))


@triton.jit
def _order(values, out, SIZE: tl.constexpr):
    i = tl.arange(0, SIZE)
    tl.store(out + i, ordered(tl.load(values + i)))


def test_similarities_are_ordered_as_argmax_orders_them():
    values = torch.tensor([-math.inf, -1.0, -1e-45, -0.0, 0.0, 1e-45, 2.0, math.inf])
    keys = torch.empty(8, dtype=torch.int32)
    _order[(1,)](values, keys, SIZE=8)
    assert (keys.diff() > 0).tolist() == [True, True, True, False, True, True, True] and keys[3] == keys[4]
    assert keys[0] > -(2**31)  # what is no pixel
    _order[(1,)](torch.full((8,), math.nan).copysign(values), keys, SIZE=8)
    assert (keys == 2**31 - 1).all()
