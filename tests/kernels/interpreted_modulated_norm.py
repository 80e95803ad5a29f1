"""The Triton kernels of modulated_norm in Triton's interpreter, against torch's own layers.

Collected by test_triton_interpreter.py alone, in a process that has TRITON_INTERPRET=1 from its start: bfloat16 is left
out, because the interpreter computes it wrongly (it counts only on a GPU).
"""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from numerics import assert_as_accurate
from plain import modulated_norm as plain
from sampling import LAYOUTS, leaf, random_image, seed_everything

from pyeqgan import backends
from pyeqgan.functional import modulated_norm
from pyeqgan.kernels import modulated_norm as kernels

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::DeprecationWarning")
NORMS = {
    "none": {"norm": None},
    "batch": {"norm": "batch", "training": True},
    "given": {"norm": "batch", "training": False},
    "instance": {"norm": "instance"},
}
# Norm, gamma and beta, activation, whether a program may take a whole map, and how many programs are wanted: each size
# is off a tile (16 channels, 128 pixels) and several of its steps or parts.
CASES = (
    (torch.float32, (2, 3, 11, 13), "instance", "maps", "leaky_relu", True, 2048),
    (torch.float16, (1, 17, 6, 5), "instance", "halves", "relu", True, 2048),
    (torch.float32, (2, 19, 5, 7), "instance", "vectors", "tanh", True, 2048),
    (torch.float32, (2, 3, 17, 19), "instance", "halves", "leaky_relu", False, 2048),
    (torch.float16, (2, 17, 13, 11), "instance", "vectors", None, False, 1),
    (torch.float32, (3, 4, 17, 16), "batch", "maps", "relu", True, 1),
    (torch.float16, (2, 18, 9, 17), "batch", "halves", "tanh", True, 2048),
    (torch.float32, (2, 5, 13, 23), "batch", "vectors", "tanh", True, 2048),
    (torch.float16, (2, 5, 12, 13), "given", "halves", "leaky_relu", True, 2048),
    (torch.float32, (2, 17, 7, 9), "given", "vectors", None, True, 1),
    (torch.float32, (2, 3, 16, 9), "none", "maps", "leaky_relu", True, 2048),
    (torch.float16, (1, 18, 5, 3), "none", "vectors", "tanh", True, 2048),
)


@pytest.fixture(autouse=True)
def backend():
    with backends.force("triton", "modulated_norm"):
        yield


@pytest.fixture(params=[True, False], ids=["whole", "parts"])
def walk(request, monkeypatch):
    if not request.param:
        monkeypatch.setattr(kernels, "WHOLE", 0)


def problem(shape, dtype, norm, kind="maps", layout="contiguous"):
    """x, gamma, beta and the norm's options; z is far from 0, where rounding would choose its slope, if it can be."""
    x = random_image(shape, dtype, layout)
    options = dict(NORMS[norm])
    if norm in ("batch", "given"):
        mean, var = torch.randn(2, shape[1], dtype=torch.float64)
        options |= {"running_mean": mean.to(dtype), "running_var": (var.square() + 0.5).to(dtype)}
    if kind == "vectors":
        gamma, beta = (torch.randn(shape[:2], dtype=torch.float64).to(dtype) for _ in range(2))
        return (x, gamma, beta), options
    gamma, beta = random_image((shape[0], 2 * shape[1], *shape[2:]), dtype, layout).chunk(2, 1)
    if layout != "expanded":
        exact = {k: v.double() if isinstance(v, torch.Tensor) else v for k, v in options.items()}
        far = plain(x.double(), gamma.double(), 0 * x.double(), **exact, activation=None).abs() + 0.5
        beta.copy_(far.copysign(beta.double()))
    return (x, gamma, beta) if kind == "halves" else (x, gamma.clone(), beta.mT.contiguous().mT), options


def results(function, tensors, options, seed, **others):
    """The result, all gradients and the running statistics after it."""
    inputs = [leaf(t) for t in tensors]
    options = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in options.items()}
    y = function(*inputs, **options, **others)
    # Another seed than the problem's, which would draw x again: its gradient by a norm is 0.
    grad = torch.randn(y.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed + 1))
    running = [options[k] for k in ("running_mean", "running_var") if k in options]
    return [y.detach(), *torch.autograd.grad(y, inputs, grad.to(tensors[0].dtype).to(y.dtype)), *running]


def doubled(options):
    return {k: v.double() if isinstance(v, torch.Tensor) else v for k, v in options.items()}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_matches_the_truth_as_well_as_plain_pytorch(case, monkeypatch):
    seed = seed_everything()
    dtype, shape, norm, kind, activation, whole, programs = case
    monkeypatch.setattr(kernels, "PROGRAMS", programs)
    if not whole:
        monkeypatch.setattr(kernels, "WHOLE", 0)
    for layout in (LAYOUTS[CASES.index(case) % 2], LAYOUTS[2 + CASES.index(case) // 2 % 4]):
        kink = activation in ("relu", "leaky_relu") and layout == "expanded"  # z is where it is
        tensors, options = problem(shape, dtype, norm, kind, layout)
        others = {"activation": None if kink else activation}
        ours, layers = (results(f, tensors, options, seed, **others) for f in (modulated_norm, plain))
        truth = results(plain, [t.double() for t in tensors], doubled(options), seed, **others)
        assert_as_accurate(ours, layers, truth, dtype)
        expected = torch._prims_common.suggest_memory_format(tensors[0])
        for image in (t for t in ours[:4] if t.dim() == 4):
            assert image.is_contiguous(memory_format=expected)


def test_second_order_is_that_of_plain_pytorch(walk):
    seed_everything()
    tensors = [random_image((2, 3, 5, 7), torch.float32) / 2 for _ in range(3)]

    def penalty(function, tensors):
        x, gamma, beta = (leaf(t) for t in tensors)
        y = function(x, gamma, beta, activation="tanh")
        (grad,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        return torch.autograd.grad(grad.square().sum(), (x, gamma, beta))

    truth = penalty(plain, [t.double() for t in tensors])
    assert_as_accurate(penalty(modulated_norm, tensors), penalty(plain, tensors), truth, torch.float32)


@pytest.mark.parametrize("kind", ["maps", "vectors"])
@pytest.mark.parametrize("norm", NORMS)
def test_only_what_is_asked_for_is_computed(norm, kind, walk):
    seed_everything()
    tensors, options = problem((2, 3, 12, 13), torch.float32, norm, kind)
    running = [options.get(k) for k in ("running_mean", "running_var")]
    numbers = (options.get("training", False), 1e-5, "leaky_relu", 0.2)
    y, *statistics = kernels.forward(*tensors, options["norm"], *running, *numbers)
    arguments = (torch.randn_like(y), *tensors, options["norm"], *statistics, *numbers)
    every = kernels.backward(*arguments, True, True, True)
    for needs in ((True, False, False), (False, True, False), (False, False, True), (True, True, False)):
        for grad, whole, needed in zip(kernels.backward(*arguments, *needs), every, needs, strict=True):
            assert torch.equal(grad, whole) if needed else grad.shape == (0,)


@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_statistics_of_a_large_mean_keep_their_precision(norm, walk):
    """Also where one pixel is far from all others; and those of a constant map are exact."""
    seed = seed_everything()
    for outlier in (0, 1e4):
        (x, gamma, beta), options = problem((2, 2, 16, 17), torch.float32, norm)
        x += 1000
        x[..., 0, 0] += outlier
        tensors, others = (x, gamma, beta), {"activation": None}
        ours, layers = (results(f, tensors, options, seed, **others) for f in (modulated_norm, plain))
        truth = results(plain, [t.double() for t in tensors], doubled(options), seed, **others)
        lost = float(x.abs().mean() / x.std((0, 2, 3)).min())  # of x̂: x/σ and mean/σ cancel
        for a, b, t in zip(ours, layers, truth, strict=True):
            assert_as_accurate([a], [b], [t], torch.float32, terms=lost * float(t.norm()))
    x = torch.full((1, 2, 30, 30), -3e4)
    assert not modulated_norm(x, x, 0 * x, norm=norm, training=True).any()


@pytest.mark.parametrize("norm", ["none", "instance", "batch"])
def test_nan_goes_no_further_than_the_maths(norm, walk):
    seed = seed_everything()
    for where in range(3):
        tensors, options = problem((2, 3, 12, 13), torch.float32, norm)
        tensors[where][1, 1, 4, 3] = math.nan
        ours, expected = (results(f, tensors, options, seed) for f in (modulated_norm, plain))
        assert all(torch.equal(a.isnan(), b.isnan()) for a, b in zip(ours, expected, strict=True))


@pytest.mark.parametrize("kind", ["halves", "vectors"])
@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 3, 0, 4), (2, 0, 3, 4)], ids=str)
def test_nothing_to_do(shape, kind):
    for norm in NORMS:
        tensors = [torch.zeros(shape), *(torch.ones(shape[:2] if kind == "vectors" else shape) for _ in range(2))]
        options = NORMS[norm] | ({"running_mean": torch.ones(shape[1])} if norm in ("batch", "given") else {})
        if "running_mean" in options:
            options |= {"running_var": torch.ones(shape[1])}
        y, *grads = results(modulated_norm, tensors, options, 0)
        assert y.shape == shape and not any(g.any() for g in grads[:3]) and all(r.all() for r in grads[3:])


def test_float64_is_refused():
    x = torch.zeros(1, 1, 2, 2).double()
    with pytest.raises(TypeError, match="x: expected float32, bfloat16 or float16, got torch"):
        modulated_norm(x, x, x)


@pytest.mark.parametrize("axes", [(0, 2), (1, 2), (0, 1)])
def test_strides_beyond_two_to_the_31(axes, tmp_path, monkeypatch, walk):
    """Small images, read and written, whose strides along two axes are larger than any int32, in a sparse file."""
    seed_everything()
    far, strides = 2**31 + 8, [512, 64, 8]
    strides[axes[0]], strides[axes[1]] = 7 * far, far
    file = tmp_path / "sparse"
    flat = torch.from_file(str(file), shared=True, size=32 * far, dtype=torch.float16)
    file.unlink()
    places = itertools.count(0, 1024)

    def away(shape):
        return flat[next(places) :].as_strided(shape, (*strides[:2], strides[2] * shape[3], strides[2]))

    images = [random_image((2, 3, 2, 3), torch.float16) for _ in range(4)]

    def everything(grad_y, *tensors):
        y, *statistics = kernels.forward(*tensors, "instance", None, None, False, 1e-5, "relu", 0.0)
        arguments = (grad_y, *tensors, "instance", *statistics, False, 1e-5, "relu", 0.0)
        return y, *kernels.backward(*arguments, True, True, True)

    near = everything(*images)
    monkeypatch.setattr(kernels, "empty_image", lambda x, _: away(x.shape))
    found = everything(*(away(i.shape).copy_(i) for i in images))
    assert all(f.stride() == away(f.shape).stride() for f in found)
    assert all(torch.equal(one, other) for one, other in zip(near, found, strict=True))
