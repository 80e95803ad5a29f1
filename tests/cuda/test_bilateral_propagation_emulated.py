"""The CUDA C++ kernels of bilateral_propagation, run on the CPU, against the oracle."""

from __future__ import annotations

import itertools

import pytest
import torch
from numerics import as_one_vector, assert_as_accurate
from sampling import IMAGE_SHAPES, LAYOUTS, leaf, random_image, seed_everything
from torch import Tensor

from pyeqgan import reference

SETTINGS = ((1.5, 8), (0.7, 1), (3.0, 200), (1.5, 0))
# Off the tile of 32 x 32 and the band of 4 rows by one, several tiles, more quads of channels than warps.
SHAPES = (*IMAGE_SHAPES, (1, 6, 33, 65), (1, 37, 5, 32), (2, 4, 8, 3))


def oracle(x: Tensor, gate: Tensor | None, grad_y: Tensor, sigma: float, radius: int) -> list[Tensor | None]:
    """y, affinity, grad_x, grad_gate in the dtype of x."""
    x, gate = leaf(x), None if gate is None else leaf(gate)
    y, affinity = reference.bilateral_propagation_with_affinity(x, gate, sigma, radius)
    inputs = [x] if gate is None else [x, gate]
    grads = torch.autograd.grad(y, inputs, grad_y.to(y.dtype))
    return [y.detach(), affinity.detach(), *grads, *[None] * (2 - len(grads))]


def kernels(bilateral, x, gate, grad_y, sigma, radius, seed=0) -> list[Tensor | None]:
    bilateral.library.emulation_seed(seed)
    y, affinity = bilateral.forward(x, gate, sigma, radius)
    assert bilateral.result == 0
    grads = bilateral.backward(grad_y, x, gate, affinity, sigma, radius)
    assert bilateral.result == 0
    return [y, affinity, *grads]


def problem(shape, dtype, layout="contiguous", with_gate=True):
    x = random_image(shape, dtype, layout)
    gate = torch.rand(shape[:2], dtype=torch.float64).to(dtype) if with_gate else None
    return x, gate, random_image((shape[0], 2 * shape[1], *shape[2:]), dtype, layout)


def assert_accurate(bilateral, x, gate, grad_y, sigma, radius):
    ours = kernels(bilateral, x, gate, grad_y, sigma, radius, seed_everything())
    plain = oracle(x, gate, grad_y, sigma, radius)
    truth = oracle(x.double(), None if gate is None else gate.double(), grad_y.double(), sigma, radius)
    if x.numel() == 1:
        ours, plain, truth = as_one_vector(ours, plain, truth)
    assert_as_accurate(ours, plain, truth, x.dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_matches_the_truth_as_well_as_plain_pytorch(bilateral, shape, dtype):
    seed_everything()
    settings = itertools.cycle(SETTINGS)
    for i, layout in enumerate(LAYOUTS):
        assert_accurate(bilateral, *problem(shape, dtype, layout, i % 2 == 0), *next(settings))


@pytest.mark.parametrize("shared_bytes", [227 * 1024, 99 * 1024, 92 * 1024])
def test_a_reach_beyond_shared_memory_goes_in_pieces(bilateral, device, shared_bytes):
    seed_everything()
    device(shared_bytes=shared_bytes)
    for shape, layout, sigma, radius in (
        ((1, 5, 9, 150), "sliced", 30.0, 150),
        ((1, 3, 90, 40), "contiguous", 9.0, 45),
        ((1, 8, 40, 35), "channels_last", 3.0, 13),
    ):
        assert_accurate(bilateral, *problem(shape, torch.float32, layout), sigma, radius)


def test_too_little_shared_memory_is_an_error(bilateral, device):
    device(shared_bytes=16 * 1024)
    bilateral.forward(torch.randn(1, 1, 2, 2), None, 1.0, 1)
    assert bilateral.result == 9  # cudaErrorInvalidConfiguration


@pytest.mark.parametrize("with_gate", [True, False])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "sliced"])
def test_a_batch_in_several_passes_and_blocks_of_several_quads(bilateral, device, layout, with_gate):
    seed_everything()
    device(multiprocessors=1, l2_bytes=4096)
    assert_accurate(bilateral, *problem((5, 12, 3, 8), torch.float32, layout, with_gate), 1.5, 8)
    assert_accurate(bilateral, *problem((1, 42, 33, 3), torch.float32, layout, with_gate), 1.5, 8)


def test_two_blocks_fit_a_multiprocessor_at_the_default_sigma(bilateral):
    """At most 99 KiB of shared memory, so that sm_86 and sm_89 run one block and sm_90 two, without smaller pieces."""
    x, gate, grad_y = problem((1, 4, 40, 40), torch.float32)
    kernels(bilateral, x, gate, grad_y, 1.5, 8)
    assert 0 < bilateral.library.emulation_most_granted() <= 99 * 1024


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_order_of_threads_and_blocks_does_not_matter(bilateral, layout):
    seed_everything()
    inputs = problem((2, 9, 34, 10), torch.float32, layout)
    first, *others = [kernels(bilateral, *inputs, 1.5, 8, seed) for seed in range(4)]
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize(("need_x", "need_gate"), [(True, False), (False, True)])
def test_only_what_is_asked_for_is_computed(bilateral, need_x, need_gate):
    seed_everything()
    x, gate, grad_y = problem((2, 5, 7, 11), torch.float32)
    _, affinity, *both = kernels(bilateral, x, gate, grad_y, 1.5, 8)
    one = bilateral.backward(grad_y, x, gate, affinity, 1.5, 8, need_x, need_gate)
    for value, full, needed in zip(one, both, (need_x, need_gate), strict=True):
        assert torch.equal(value, full) if needed else value is None


def test_nan_goes_no_further_than_the_maths(bilateral):
    x = torch.randn(1, 6, 40, 40)
    x[0, 2, 20, 9] = torch.nan
    y, affinity = bilateral.forward(x, None, 1.5, 3)
    near = torch.zeros(40, 40, dtype=torch.bool)
    near[19:22, 8:11] = True
    far = torch.zeros(40, 40, dtype=torch.bool)
    far[17:24, 6:13] = True
    spatial, ranged = y[0].isnan().split(6)
    assert torch.equal(affinity[0].isnan().any(0), near)
    assert torch.equal(ranged, near.expand(6, -1, -1))
    assert torch.equal(spatial[2], far)
    assert not spatial[[0, 1, 3, 4, 5]].any()


def test_nothing_to_do(bilateral):
    for shape in ((0, 3, 4, 5), (2, 3, 0, 5), (2, 0, 4, 5)):
        x, gate = torch.randn(shape), torch.rand(shape[:2])
        y, affinity = bilateral.forward(x, gate, 1.5, 8)
        _, grad_gate = bilateral.backward(torch.randn_like(y), x, gate, affinity, 1.5, 8)
        assert bilateral.result == 0
        assert torch.equal(grad_gate, torch.zeros(shape[:2]))


def test_invalid_arguments_are_refused(bilateral):
    x = torch.randn(1, 2, 3, 4)
    for sigma, radius, dtype in ((0.0, 1, 0), (-1.0, 1, 0), (torch.nan, 1, 0), (1.0, -1, 0), (1.0, 1, 7)):
        y, _ = bilateral.forward(x, None, sigma, radius, dtype)
        assert bilateral.result == 1, (sigma, radius, dtype)  # cudaErrorInvalidValue
        assert y.isnan().all()


@pytest.mark.parametrize("axis", range(4))
def test_offsets_beyond_two_to_the_31(bilateral, axis, tmp_path):
    """Small images whose stride along one axis is larger than any int, in a sparse file of which little exists."""
    seed_everything()
    far, strides = 2**31 + 8, [360, 36, 12, 1]
    strides[axis] = far
    file = tmp_path / "sparse"
    flat = torch.from_file(str(file), shared=True, size=10 * far, dtype=torch.float16)
    file.unlink()
    x, gate, grad_y = problem((2, 5, 3, 6), torch.float16)
    far_x = flat.as_strided(x.shape, strides).copy_(x)
    far_grad = flat[1024:].as_strided(grad_y.shape, strides).copy_(grad_y)
    near = kernels(bilateral, x, gate, grad_y, 1.5, 8)
    for value, expected in zip(kernels(bilateral, far_x, gate, far_grad, 1.5, 8), near, strict=True):
        assert torch.equal(value, expected)
