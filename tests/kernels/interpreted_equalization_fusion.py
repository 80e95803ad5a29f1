"""The Triton kernels of equalization_fusion in Triton's interpreter, against torch's own layers.

Collected by test_triton_interpreter.py alone, in a process that has TRITON_INTERPRET=1 from its start: bfloat16 is left
out, because the interpreter computes it wrongly, and tf32 is computed as float32 (both count only on a GPU).
"""

from __future__ import annotations

import itertools
import math

import plain
import pytest
import torch
from numerics import assert_as_accurate
from sampling import LAYOUTS, leaf, random_image, seed_everything

from pyeqgan import backends, reference
from pyeqgan.functional import equalization_fusion
from pyeqgan.kernels import equalization_fusion as kernels

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::DeprecationWarning")
# Maps, their layout, channels fused and given out, norm, and whether there is a detail: one pixel, more than a block
# of pixels (128) and of channels (32) on either side.
CASES = (
    (torch.float32, (2, 3, 4, 5), 6, 5, "instance", True),
    (torch.float16, (2, 3, 4, 5), 6, 5, "batch", False),
    (torch.float32, (1, 2, 12, 11), 4, 3, "batch", True),
    (torch.float16, (1, 2, 3, 2), 5, 4, None, True),
    (torch.float32, (1, 33, 2, 5), 35, 34, "given", False),
)


@pytest.fixture(autouse=True)
def backend():
    with backends.force("triton", "equalization_fusion"):
        yield


def problem(shape, channels, outputs, norm, detail, dtype, layout="contiguous"):
    """Maps and parameters by name, and the options."""
    batch, given, height, width = shape
    sizes = {"structure": given, "texture": given + 1} | ({"detail": given + 2} if detail else {})
    tensors = {name: random_image((batch, c, height, width), dtype, layout) for name, c in sizes.items()}
    shapes = {
        "fuse_weight": (channels, sum(sizes.values()), 1, 1),
        "fuse_bias": (channels,),
        "gate_reduce_weight": (4, channels, 1, 1),
        "gate_reduce_bias": (4,),
        "gate_expand_weight": (channels, 4, 1, 1),
        "gate_expand_bias": (channels,),
        "out_weight": (outputs, 2 * channels, 1, 1),
    }
    if norm in ("batch", "given"):
        shapes |= {f"fuse_norm_{p}": (channels,) for p in ("weight", "bias")}
        shapes |= {f"out_norm_{p}": (outputs,) for p in ("weight", "bias")}
    for name, size in shapes.items():
        fan_in = math.prod(size[1:])
        tensors[name] = (torch.randn(size, dtype=torch.float64) / fan_in**0.5).to(dtype)
    options = {"norm": "batch" if norm == "given" else norm, "training": norm == "batch"}
    if norm == "given":
        for name, features in (("fuse", channels), ("out", outputs)):
            options[f"{name}_running_mean"] = torch.randn(features, dtype=torch.float64).to(dtype)
            options[f"{name}_running_var"] = (torch.randn(features, dtype=torch.float64).square() + 0.5).to(dtype)
    return tensors, options


def run(function, tensors, options, seed, dtype=None):
    """The result, and all gradients as one vector: a bias before a norm has a gradient of noise."""
    inputs = {k: leaf(t if dtype is None else t.to(dtype)) for k, t in tensors.items()}
    y = function(**inputs, **options)
    upstream = torch.randn(y.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    upstream = upstream.to(next(iter(tensors.values())).dtype)
    grads = torch.autograd.grad(y, list(inputs.values()), upstream.to(y.dtype))
    return [y.detach()], [torch.cat([g.double().flatten() for g in grads])]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_matches_the_truth_as_well_as_plain_pytorch(case):
    seed = seed_everything()
    dtype, *sizes = case
    tensors, options = problem(*sizes, dtype, LAYOUTS[CASES.index(case) % len(LAYOUTS)])
    # One value that rounding moves across the kink outweighs all rounding: there is no kink at slope 1.
    options |= {"negative_slope": 1.0}
    layers = plain.equalization_fusion if sizes[3] != "given" else reference.equalization_fusion
    names = {f"gate_{k}_{p}": f"{k}_{p}" for k in ("reduce", "expand") for p in ("weight", "bias")}

    def by_layers(**arguments):
        if layers is reference.equalization_fusion:
            return layers(**arguments)
        return layers(**{names.get(k, k): v for k, v in arguments.items()})

    ours = run(equalization_fusion, tensors, options, seed)
    rounded = run(by_layers, tensors, options, seed)
    wide = {k: v.double() if isinstance(v, torch.Tensor) else v for k, v in options.items()}
    truth = run(by_layers, tensors, wide, seed, torch.float64)
    for a, b, t in zip(ours, rounded, truth, strict=True):
        assert_as_accurate(a, b, t, dtype)


def test_the_kink_is_where_torch_has_it():
    """With the slope of the models: in float32 few values are near enough to zero for rounding to move them across."""
    seed = seed_everything(3)
    tensors, options = problem((2, 3, 4, 5), 6, 5, "instance", True, torch.float32)
    for ours, truth in zip(
        run(equalization_fusion, tensors, options, seed),
        run(reference.equalization_fusion, tensors, options, seed, torch.float64),
        strict=True,
    ):
        torch.testing.assert_close(ours[0].double(), truth[0].double(), rtol=1e-4, atol=1e-4)


def arguments(norm="instance"):
    tensors, _ = problem((1, 3, 3, 4), 5, 4, norm, True, torch.float32, "channels_last")
    order = ("structure", "texture", "detail", *(k for k in tensors if k.startswith(("fuse_", "gate_", "out_"))))
    inputs = [tensors.get(k) for k in order if "norm" not in k]
    affine = [tensors.get(f"{p}_norm_{q}") for p in ("fuse", "out") for q in ("weight", "bias")]
    return [*inputs, *affine], (norm, True, 1e-5, 1.5, 8, 0.2)


def test_only_what_is_asked_for_is_computed_in_the_memory_format_of_its_input():
    seed_everything()
    inputs, options = arguments("batch")
    y, *saved = kernels.forward(*inputs, *[None] * 4, *options)
    assert y.is_contiguous(memory_format=torch.channels_last)
    every = kernels.backward(y, *inputs, *saved, *options, [True] * 14)
    for grad, like in zip(every, inputs, strict=True):
        assert grad.shape == like.shape and (grad.dim() != 4 or grad.shape[2] == 1 or grad.stride() == like.stride())
    for wanted in ((0, 2, 4, 6), (9, 13), (12,), (1, 3, 5, 10)):
        needs = [i in wanted for i in range(14)]
        for grad, whole, needed in zip(
            kernels.backward(y, *inputs, *saved, *options, needs), every, needs, strict=True
        ):
            assert torch.equal(grad, whole) if needed else grad.shape == (0,)


def test_nan_stays_in_its_image():
    """A norm by the image's own statistics spreads it over the image, and the gate over its channels."""
    inputs, options = arguments()
    maps = [torch.cat([m, torch.randn_like(m)]) for m in inputs[:3]]
    maps[1][0, 1, 1, 2] = math.nan
    y, *saved = kernels.forward(*maps, *inputs[3:], *[None] * 4, *options)
    assert y[0].isnan().all() and y[1].isfinite().all()
    grads = kernels.backward(torch.ones_like(y), *maps, *inputs[3:], *saved, *options, [True] * 3 + [False] * 11)
    assert all(g[1].isfinite().all() for g in grads[:3])


def test_nothing_to_do():
    for norm in ("instance", "batch"):
        tensors, options = problem((0, 3, 4, 5), 6, 5, norm, False, torch.float32)
        (y,), (grads,) = run(equalization_fusion, tensors, options, 0)
        assert y.shape == (0, 5, 4, 5) and not grads.any()


def test_one_pixel():
    tensors, options = problem((2, 3, 1, 1), 6, 5, "instance", False, torch.float32)
    assert torch.equal(equalization_fusion(**tensors, **options), torch.zeros(2, 5, 1, 1))


def test_float64_is_refused():
    tensors, options = problem((1, 1, 2, 2), 2, 2, "instance", False, torch.float64)
    with pytest.raises(TypeError, match="structure: expected float32, bfloat16 or float16, got torch"):
        equalization_fusion(**tensors, **options)


@pytest.mark.parametrize("axes", [(0, 2), (1, 3)])
def test_strides_beyond_two_to_the_31(axes, tmp_path, monkeypatch):
    """Small images, read and written, whose strides along two axes are larger than any int32, in a sparse file."""
    seed_everything()
    far, strides = 2**31 + 8, [512, 64, 8, 1]
    strides[axes[0]], strides[axes[1]] = far, 5 * far
    file = tmp_path / "sparse"
    flat = torch.from_file(str(file), shared=True, size=32 * far, dtype=torch.float16)
    file.unlink()
    places = itertools.count(0, 4096)

    def away(shape):
        return flat[next(places) :].as_strided(shape, strides)

    tensors, _ = problem((2, 2, 2, 3), 3, 2, "instance", False, torch.float16)
    structure, texture, *parameters = tensors.values()
    options, others = ("instance", False, 1e-5, 1.5, 8, 0.2), [None] * 8

    def everything(structure, texture):
        return kernels.forward(structure, texture, None, *parameters, *others, *options)

    near = everything(structure, texture)
    monkeypatch.setattr(kernels, "empty_image", lambda x, c: away((len(x), c, *x.shape[2:])))
    found = everything(away(structure.shape).copy_(structure), away(texture.shape).copy_(texture))
    assert found[0].stride() == tuple(strides)
    assert all(torch.equal(one, other) for one, other in zip(near, found, strict=True))
