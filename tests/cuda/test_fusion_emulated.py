"""The CUDA C++ kernels of local_fusion and lifted_fusion, run on the CPU, against the oracle."""

from __future__ import annotations

import pytest
import torch
from numerics import assert_as_accurate
from sampling import LAYOUTS, leaf, random_image, seed_everything
from torch import Tensor

from pyeqgan import reference
from pyeqgan.ops.lifted_fusion import empty_references

# (B,R,C,rows,columns), M and the scale of the lifted map: all positions, none, one pixel, no image, no reference, no
# channel, off 32 positions, 128 pixels and 16 channels by one, several tiles of each, more columns than a segment.
SIZES = (
    ((2, 2, 6, 5, 7), 20, 2),
    ((2, 3, 5, 4, 3), 12, 3),
    ((1, 2, 3, 4, 4), 0, 1),
    ((3, 1, 1, 1, 1), 1, 4),
    ((0, 2, 3, 4, 4), 5, 1),
    ((2, 0, 3, 4, 4), 5, 2),
    ((1, 1, 0, 3, 4), 5, 1),
    ((1, 2, 17, 3, 43), 33, 1),
    ((1, 1, 33, 12, 23), 70, 1),
    ((2, 1, 2, 2, 131), 9, 2),
)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def problem(sizes, count, dtype, layout="contiguous", scale=1):
    """base, references, weights and positions on a grid of these sizes, the maps finer by `scale`."""
    batch, refs, channels, rows, columns = sizes
    base = random_image((batch, channels, scale * rows, scale * columns), dtype, layout)
    references = random_image((batch * refs, channels, scale * rows, scale * columns), dtype, layout)
    weights = torch.rand(batch, refs + 1, dtype=torch.float64).to(dtype)
    places = [torch.randperm(rows * columns)[:count] for _ in range(batch)]
    positions = torch.stack(places) if places else torch.empty(0, count, dtype=torch.int64)
    return base, references.unflatten(0, (batch, refs)), weights, positions


def random_matches(sizes, count):
    """With repetitions: several positions take the content of one cell."""
    batch, refs, _, rows, columns = sizes
    return torch.randint(max(rows * columns // 2, 1), (batch, refs, count))


def with_gradients(function, base, references, weights, grad, *others):
    inputs = [leaf(t) for t in (base, references, weights)]
    fused = function(*inputs, *others)
    return [fused.detach(), *torch.autograd.grad(fused, inputs, grad.to(fused.dtype), materialize_grads=True)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("sizes", "count", "scale"), SIZES, ids=str)
def test_lifted_fusion_matches_the_truth_as_well_as_plain_pytorch(fusion, sizes, count, scale, dtype):
    fusion.library.emulation_seed(seed_everything())
    for layout in LAYOUTS:
        *inputs, positions = problem(sizes, count, dtype, layout, scale)
        matches, grid = random_matches(sizes, count), sizes[3:]
        grad = random_image(inputs[0].shape, dtype, layout)
        fused = fusion.lifted(*inputs, positions, matches, grid)
        assert fusion.result == 0
        grads = fusion.backward(grad, *inputs, positions, matches, grid)
        assert fusion.result == 0
        others = (positions, matches, grid)
        plain = with_gradients(reference.lifted_fusion, *inputs, grad, *others)
        truth = with_gradients(reference.lifted_fusion, *(t.double() for t in inputs), grad.double(), *others)
        # A weight's gradient is a long sum that may nearly cancel: the sum of absolute values is its size.
        magnitudes = with_gradients(reference.lifted_fusion, *(t.double().abs() for t in (*inputs, grad)), *others)
        assert_as_accurate([fused, *grads], plain, truth, dtype, [float(m.norm()) for m in magnitudes])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("sizes", "count"), [size[:2] for size in SIZES], ids=str)
def test_local_fusion_finds_the_best_match_and_blends_it(fusion, sizes, count, dtype):
    fusion.library.emulation_seed(seed_everything())
    for layout in LAYOUTS:
        base, references, weights, positions = problem(sizes, count, dtype, layout)
        fused, matches = fusion.local(base, references, weights, positions)
        assert fusion.result == 0
        pixels = references.double().flatten(3)
        units = pixels / pixels.norm(dim=2, keepdim=True).clamp_min(1e-12)
        chosen = base.double().flatten(2).gather(2, positions[:, None].expand(-1, base.shape[1], -1))
        similarity = torch.einsum("bcm,brcn->brmn", chosen, units)
        if similarity.numel():
            # Rounding in float32 may prefer another of nearly equal ones.
            found, best = similarity.gather(3, matches[..., None])[..., 0], similarity.amax(3)
            assert torch.all(best - found <= 1e-6 * chosen.norm(dim=1)[:, None])
        others = (positions, matches, sizes[3:])
        plain = reference.lifted_fusion(base, references, weights, *others)
        truth = reference.lifted_fusion(base.double(), references.double(), weights.double(), *others)
        assert_as_accurate([fused], [plain], [truth], dtype)


def test_of_equals_the_first_matches_and_nan_is_the_largest(fusion):
    seed_everything()
    base, references, weights, positions = problem((1, 1, 20, 12, 24), 40, torch.float32)
    pixels = references.flatten(3)
    pixels[..., 200:] = pixels[..., 40:128]  # the same again, of other threads and of the next pixels
    _, matches = fusion.local(base, references, weights, positions)
    assert matches.max() < 200
    references.zero_()
    assert not fusion.local(base, references, weights, positions)[1].any()
    references[0, 0, 3, 6, 2] = references[0, 0, 3, 9, 9] = torch.nan
    assert torch.all(fusion.local(base, references, weights, positions)[1] == 6 * 24 + 2)
    references[0, 0, 3] = -torch.inf  # NaN, too, with a norm that is infinite
    assert not fusion.local(base, references, weights, positions)[1].any()


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_the_order_of_threads_and_blocks_does_not_matter(fusion, device, layout):
    seed_everything()
    sizes, count = ((2, 2, 18, 6, 24), 50)
    *inputs, positions = problem(sizes, count, torch.float32, layout)
    grad, grid = random_image(inputs[0].shape, torch.float32, layout), sizes[3:]

    def run(seed: int) -> list[Tensor]:
        fusion.library.emulation_seed(seed)
        fused, matches = fusion.local(*inputs, positions)
        return [fused, matches, *fusion.backward(grad, *inputs, positions, matches, grid)]

    first, *others = [run(seed) for seed in range(4)]
    fusion.library.emulation_device(227 * 1024, 1, 50 << 20)  # fewer and larger blocks
    others.append(run(0))
    fusion.library.emulation_device(227 * 1024, 132, 50 << 20)
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("needed", range(3))
def test_only_what_is_asked_for_is_computed(fusion, needed):
    seed_everything()
    sizes, count = ((2, 2, 5, 3, 4), 7)
    *inputs, positions = problem(sizes, count, torch.float32, scale=2)
    arguments = (torch.randn_like(inputs[0]), *inputs, positions, random_matches(sizes, count), sizes[3:])
    full = fusion.backward(*arguments)
    needs = [i == needed for i in range(3)]
    for one, value, need in zip(fusion.backward(*arguments, needs), full, needs, strict=True):
        assert torch.equal(one, value) if need else one is None


def test_a_pixel_that_is_not_selected_is_kept_bit_for_bit(fusion):
    seed_everything()
    base, references, weights, positions = problem((1, 2, 5, 9, 17), 30, torch.float32)
    base[0, 2, 4, 4], weights[:] = torch.nan, torch.nan
    fused, _ = fusion.local(base, references, weights, positions)
    others = torch.ones(9 * 17, dtype=torch.bool)
    others[positions[0]] = False
    bits = [x.flatten(2)[..., others].view(torch.int32) for x in (base, fused)]
    assert torch.equal(*bits)
    assert fused.flatten(2)[..., positions[0]].isnan().all()


@pytest.mark.parametrize("field", ["batch", "count", "channels", "rows", "columns", "selected"])
def test_sizes_that_do_not_fit_are_refused(fusion, field, monkeypatch):
    *inputs, positions = problem((1, 1, 2, 3, 4), 5, torch.float32)
    describe = fusion.describe
    for value in (-1, 2**31):

        def wrong(*arguments, value=value):
            about = describe(*arguments)
            setattr(about, field, value)
            return about

        monkeypatch.setattr(fusion, "describe", wrong)
        assert fusion.local(*inputs, positions)[0].isnan().all()
        assert fusion.result == 1  # cudaErrorInvalidValue


@pytest.mark.parametrize("axis", range(4))
def test_offsets_beyond_two_to_the_31(fusion, axis, tmp_path):
    """Small images whose stride along one axis is larger than any int, in a sparse file of which little exists."""
    seed_everything()
    far, strides = 2**31 + 8, [360, 36, 12, 1]
    strides[axis] = far
    file = tmp_path / "sparse"
    flat = torch.from_file(str(file), shared=True, size=10 * far, dtype=torch.float16)
    file.unlink()
    sizes, count = ((2, 2, 5, 3, 6), 9)
    base, references, weights, positions = problem(sizes, count, torch.float16)
    grad = random_image(base.shape, torch.float16)
    far_base = flat.as_strided(base.shape, strides).copy_(base)
    far_grad = flat[1024:].as_strided(grad.shape, strides).copy_(grad)
    far_references = flat[2048:].as_strided(references.shape, [strides[0], 180, *strides[1:]]).copy_(references)
    grid = sizes[3:]

    def run(base: Tensor, references: Tensor, grad: Tensor) -> list[Tensor]:
        fused, matches = fusion.local(base, references, weights, positions)
        assert fusion.result == 0
        inputs = (base, references, weights, positions, matches, grid)
        return [fused, matches, fusion.lifted(*inputs), *fusion.backward(grad, *inputs)]

    near = run(base, references, grad)
    for value, expected in zip(run(far_base, far_references, far_grad), near, strict=True):
        assert torch.equal(value, expected)


def test_gradients_of_references_have_the_layout_of_the_base(fusion):
    base, references, *_ = problem((2, 3, 4, 5, 6), 3, torch.float32, "channels_last")
    assert empty_references(base, references).stride() == references.stride()
