"""The Triton kernels of bilateral_propagation in Triton's interpreter, against the oracle.

Collected by test_triton_interpreter.py alone, in a process that has TRITON_INTERPRET=1 from its start: bfloat16 is left
out, because the interpreter computes it wrongly (it counts only on a GPU).
"""

from __future__ import annotations

import pytest
import torch
from numerics import as_one_vector, assert_as_accurate
from sampling import IMAGE_SHAPES, LAYOUTS, leaf, random_image, seed_everything

from pyeqgan import reference
from pyeqgan.kernels import _config
from pyeqgan.kernels import bilateral_propagation as kernels

SETTINGS = ((1.5, 8), (0.7, 1), (3.0, 20), (1.5, 0))
SHAPES = (*IMAGE_SHAPES, (1, 3, 37, 11))  # the last: more pixels than a block of the interpreter's tiles


def oracle(x, gate, grad_y, sigma, radius):
    """y, affinity, grad_x, grad_gate in the dtype of x."""
    x, gate = leaf(x), None if gate is None else leaf(gate)
    y, affinity = reference.bilateral_propagation_with_affinity(x, gate, sigma, radius)
    inputs = [x] if gate is None else [x, gate]
    grads = torch.autograd.grad(y, inputs, grad_y.to(y.dtype))
    return [y.detach(), affinity.detach(), *grads, *[None] * (2 - len(grads))]


def problem(shape, dtype, layout="contiguous", with_gate=True):
    x = random_image(shape, dtype, layout)
    gate = torch.rand(shape[:2], dtype=torch.float64).to(dtype) if with_gate else None
    return x, gate, random_image((shape[0], 2 * shape[1], *shape[2:]), dtype, layout)


def run(x, gate, grad_y, sigma, radius):
    y, affinity = kernels.forward(x, gate, sigma, radius)
    grad_x, grad_gate = kernels.backward(grad_y, x, gate, affinity, sigma, radius, True, gate is not None)
    return [y, affinity, grad_x, grad_gate if gate is not None else None]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_matches_the_truth_as_well_as_plain_pytorch(shape, dtype):
    seed_everything()
    i = SHAPES.index(shape) + 3 * (dtype == torch.float16)  # every layout, setting and gate with some shape
    sigma, radius = SETTINGS[i % len(SETTINGS)]
    x, gate, grad_y = problem(shape, dtype, LAYOUTS[i % len(LAYOUTS)], i % 4 < 2)
    plain = oracle(x, gate, grad_y, sigma, radius)
    truth = oracle(x.double(), None if gate is None else gate.double(), grad_y.double(), sigma, radius)
    ours = run(x, gate, grad_y, sigma, radius)
    if x.numel() == 1:
        ours, plain, truth = as_one_vector(ours, plain, truth)
    assert_as_accurate(ours, plain, truth, dtype)


@pytest.mark.parametrize(("need_x", "need_gate"), [(True, False), (False, True), (False, False)])
def test_only_what_is_asked_for_is_computed(need_x, need_gate):
    seed_everything()
    x, gate, grad_y = problem((2, 5, 7, 11), torch.float32)
    _, affinity, *both = run(x, gate, grad_y, 1.5, 8)
    one = kernels.backward(grad_y, x, gate, affinity, 1.5, 8, need_x, need_gate)
    for value, full, needed in zip(one, both, (need_x, need_gate), strict=True):
        assert torch.equal(value, full) if needed else value.shape == (0,)


def test_results_keep_the_memory_format():
    for layout in LAYOUTS:
        x, gate, grad_y = problem((2, 4, 3, 5), torch.float32, layout)
        y, _, grad_x, _ = run(x, gate, grad_y, 0.7, 1)
        expected = torch._prims_common.suggest_memory_format(x)
        assert y.is_contiguous(memory_format=expected) and grad_x.is_contiguous(memory_format=expected)


def test_nan_goes_no_further_than_the_maths():
    x = torch.randn(1, 6, 20, 20)
    x[0, 2, 10, 9] = torch.nan
    y, affinity = kernels.forward(x, None, 1.5, 3)
    near = torch.zeros(20, 20, dtype=torch.bool)
    near[9:12, 8:11] = True
    far = torch.zeros(20, 20, dtype=torch.bool)
    far[7:14, 6:13] = True
    spatial, ranged = y[0].isnan().split(6)
    assert torch.equal(affinity[0].isnan().any(0), near) and torch.equal(ranged, near.expand(6, -1, -1))
    assert torch.equal(spatial[2], far) and not spatial[[0, 1, 3, 4, 5]].any()


def test_nothing_to_do():
    for shape in ((0, 3, 4, 5), (2, 3, 0, 5)):
        x, gate, grad_y = problem(shape, torch.float32)
        y, affinity, grad_x, grad_gate = run(x, gate, grad_y, 1.5, 8)
        assert y.shape == grad_y.shape and affinity.shape == (shape[0], 9, *shape[2:]) and grad_x.shape == shape
        assert torch.equal(grad_gate, torch.zeros(shape[:2]))


def test_float64_is_refused():
    with pytest.raises(TypeError, match="expected float32, bfloat16 or float16, got torch"):
        kernels.forward(torch.zeros(1, 1, 2, 2, dtype=torch.float64), None, 1.5, 8)


@pytest.mark.parametrize("axis", range(4))
def test_offsets_beyond_two_to_the_31(axis, tmp_path):
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
    for value, expected in zip(run(far_x, gate, far_grad, 1.5, 8), run(x, gate, grad_y, 1.5, 8), strict=True):
        assert torch.equal(value, expected)


def test_this_process_interprets_with_tiles_of_its_own():
    assert _config.architecture() == "interpreter"
    assert all(len(_config.configs(name, autotune=False)) == 1 for name in _config.TILES["default"])
