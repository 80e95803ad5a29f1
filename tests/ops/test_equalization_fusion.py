"""equalization_fusion and its module, against the oracle and against the layers it is defined by."""

from __future__ import annotations

import plain
import pytest
import torch
from numerics import assert_as_accurate, assert_gradients_of_both_orders
from sampling import DTYPES, leaf, random_image, seed_everything
from torch import nn

from pyeqgan.functional import equalization_fusion
from pyeqgan.nn import EqualizationFusion

NORMS = ("instance", "batch", None)


def arguments(dtype, *, norm, detail=True, layout="contiguous", shape=(2, 5, 7)):
    batch, height, width = shape
    maps = [random_image((batch, c, height, width), dtype, layout) for c in (3, 4, 5)]
    sizes = ((6, 12 if detail else 7, 1, 1), (6,), (4, 6, 1, 1), (4,), (6, 4, 1, 1), (6,), (5, 12, 1, 1))
    parameters = [(torch.randn(s, dtype=torch.float64) / 3).to(dtype) for s in sizes]
    options = {"norm": norm, "training": norm == "batch"}
    if norm == "batch":
        # Weights of some size: channels that are nearly constant would leave the next norm little but their rounding.
        options |= {"fuse_norm_weight": (torch.rand(6) + 0.5).to(dtype), "fuse_norm_bias": torch.rand(6).to(dtype)}
        options |= {"out_norm_weight": (torch.rand(5) + 0.5).to(dtype), "out_norm_bias": torch.rand(5).to(dtype)}
    return [*maps[:2], *parameters], ({"detail": maps[2]} if detail else {}) | options


def run(function, tensors, options, grad, dtype=None):
    inputs = [leaf(t if dtype is None else t.to(dtype)) for t in tensors]
    converted = {
        k: leaf(v if dtype is None else v.to(dtype)) if isinstance(v, torch.Tensor) else v for k, v in options.items()
    }
    y = function(*inputs, **converted)
    wanted = [*inputs, *(v for v in converted.values() if isinstance(v, torch.Tensor))]
    return [y, *torch.autograd.grad(y, wanted, grad.to(y.dtype))]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("norm", NORMS, ids=str)
def test_matches_the_truth_as_well_as_plain_pytorch(norm, dtype):
    seed_everything()
    for layout, detail in (("contiguous", True), ("channels_last", False), ("sliced", True)):
        tensors, options = arguments(dtype, norm=norm, detail=detail, layout=layout)
        # One value that rounding moves across the kink outweighs all rounding: there is no kink at slope 1.
        options["negative_slope"] = 0.2 if dtype == torch.float64 else 1.0
        grad = random_image((2, 5, 5, 7), dtype)
        ours = run(equalization_fusion, tensors, options, grad)
        rounded = run(plain.equalization_fusion, tensors, options, grad)
        truth = run(plain.equalization_fusion, tensors, options, grad, torch.float64)
        # Gradients that are zero by nature (a bias before a norm) are noise at every dtype: compare all in one vector.
        join = [torch.cat([t.double().flatten() for t in result[1:]]) for result in (ours, rounded, truth)]
        assert_as_accurate(ours[:1], rounded[:1], truth[:1], dtype)
        assert_as_accurate(join[:1], join[1:2], join[2:], dtype)


@pytest.mark.parametrize("norm", NORMS, ids=str)
def test_many_channels_pixels_and_images(norm):
    """Several panels of channels, blocks of pixels and runs of images, in one layout and in several."""
    seed_everything()
    for batch, height, width in ((3, 33, 31), (2, 70, 67)):
        for formats in (("contiguous",) * 2, ("channels_last",) * 2, ("contiguous", "channels_last")):
            maps = [
                random_image((batch, c, height, width), torch.float64, f)
                for c, f in zip((40, 70), formats, strict=True)
            ]
            sizes = ((37, 110, 1, 1), (37,), (4, 37, 1, 1), (4,), (37, 4, 1, 1), (37,), (35, 74, 1, 1))
            tensors = [*maps, *(torch.randn(s, dtype=torch.float64) / 5 for s in sizes)]
            options = {"norm": norm, "training": norm == "batch", "negative_slope": 0.2}
            grad = random_image((batch, 35, height, width), torch.float64, formats[-1])
            ours = run(equalization_fusion, tensors, options, grad)
            truth = run(plain.equalization_fusion, tensors, options, grad)
            for a, b in zip(ours, truth, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_gradients_of_both_orders():
    seed_everything()
    for norm in NORMS:
        tensors, options = arguments(torch.float64, norm=norm, shape=(2, 3, 2))
        inputs = tuple(leaf(t) for t in tensors)
        assert_gradients_of_both_orders(lambda *t: equalization_fusion(*t, **options), inputs)  # noqa: B023


@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_module(norm):
    seed_everything()
    module = EqualizationFusion(3, 4, 16, norm=norm, detail_channels=2)
    assert module.gate_reduce.weight.shape == (4, 16, 1, 1)
    maps = [torch.randn(2, c, 5, 6) for c in (3, 4, 2)]
    y = module(*maps)
    assert y.shape == (2, 16, 5, 6)
    y.square().sum().backward()
    assert all(p.grad is not None for p in module.parameters())
    assert EqualizationFusion(3, 4, 16, norm=norm, detail_channels=2).load_state_dict(module.state_dict())
    expected = {"fuse.weight", "fuse.bias", "gate_reduce.weight", "gate_reduce.bias", "gate_expand.weight"}
    expected |= {"gate_expand.bias", "out.weight"}
    assert expected <= set(module.state_dict())
    with pytest.raises(ValueError, match="detail: expected 2 channels, got None"):
        module(*maps[:2])
    with pytest.raises(ValueError, match="expected 'instance' or 'batch', got 'layer'"):
        EqualizationFusion(3, 4, 16, norm="layer")


def test_running_statistics_are_those_of_batch_norm():
    seed_everything()
    module = EqualizationFusion(3, 4, 6, norm="batch")
    twin = nn.BatchNorm2d(6)
    for _ in range(3):
        structure, texture = torch.randn(4, 3, 5, 6), torch.randn(4, 4, 5, 6)
        module(structure, texture)
        twin(module.fuse(torch.cat([structure, texture], 1)))
    torch.testing.assert_close(module.fuse_norm.running_mean, twin.running_mean)
    torch.testing.assert_close(module.fuse_norm.running_var, twin.running_var)
    assert int(module.fuse_norm.num_batches_tracked) == 3
    module.eval()
    before = module.fuse_norm.running_mean.clone()
    module(structure, texture)
    assert torch.equal(module.fuse_norm.running_mean, before)


def test_one_pixel_maps_and_empty_batches():
    module = EqualizationFusion(3, 4, 6)
    y = module(torch.randn(2, 3, 1, 1), torch.randn(2, 4, 1, 1))
    assert torch.equal(y, torch.zeros(2, 6, 1, 1))  # an instance norm of one pixel leaves its mean, 0
    for norm in ("instance", "batch"):
        empty = EqualizationFusion(3, 4, 6, norm=norm)
        assert empty(torch.randn(0, 3, 4, 4), torch.randn(0, 4, 4, 4)).shape == (0, 6, 4, 4)
        assert all(torch.isfinite(b).all() for b in empty.buffers())


def test_output_keeps_the_memory_format_of_structure():
    module = EqualizationFusion(3, 4, 6)
    maps = [torch.randn(2, c, 5, 6).to(memory_format=torch.channels_last) for c in (3, 4)]
    assert module(*maps).is_contiguous(memory_format=torch.channels_last)


def test_compiles_without_a_graph_break():
    module = EqualizationFusion(3, 4, 6, norm="batch")
    maps = [torch.randn(2, c, 5, 6) for c in (3, 4)]
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*maps), module(*maps))


def test_wrong_arguments_are_named():
    seed_everything()
    tensors, options = arguments(torch.float32, norm="instance", detail=False)

    def call(position=None, value=None, **changes):
        replaced = [value if i == position else t for i, t in enumerate(tensors)]
        return equalization_fusion(*replaced, **(options | changes))

    for error, message, change in (
        (ValueError, r"texture: expected shape \(2, Ct, 5, 7\)", {"position": 1, "value": torch.zeros(2, 4, 5, 6)}),
        (
            TypeError,
            "texture: expected torch.float32, got torch.float64",
            {"position": 1, "value": tensors[1].double()},
        ),
        (ValueError, r"fuse_weight: expected shape \(6, 7, 1, 1\)", {"position": 2, "value": torch.zeros(6, 8, 1, 1)}),
        (ValueError, r"fuse_bias: expected shape \(6,\)", {"position": 3, "value": torch.zeros(5)}),
        (ValueError, r"gate_reduce_weight: expected shape \(4, 6", {"position": 4, "value": torch.zeros(4, 5, 1, 1)}),
        (ValueError, r"gate_expand_weight: expected shape \(6, 4", {"position": 6, "value": torch.zeros(5, 4, 1, 1)}),
        (ValueError, r"out_weight: expected shape \(Co, 12, 1, 1\)", {"position": 8, "value": torch.zeros(5, 6, 1, 1)}),
        (TypeError, "out_weight: expected a tensor, got NoneType", {"position": 8, "value": None}),
        (ValueError, "norm: expected one of None, 'batch', 'instance', got 'layer'", {"norm": "layer"}),
        (ValueError, "sigma: expected a finite number > 0", {"sigma": 0.0}),
        (ValueError, "negative_slope: expected a finite number >= 0", {"negative_slope": -0.1}),
        (ValueError, "eps: expected a finite number >= 0", {"eps": float("nan")}),
        (ValueError, "fuse_running_mean: expected a tensor when a batch norm is not training", {"norm": "batch"}),
        (
            ValueError,
            "fuse_running_mean: expected None with an instance norm",
            {"fuse_running_mean": torch.zeros(6), "fuse_running_var": torch.ones(6)},
        ),
    ):
        with pytest.raises(error, match=f"equalization_fusion: {message}"):
            call(**change)
    with pytest.raises(ValueError, match="more than one value per channel"):
        EqualizationFusion(3, 4, 6, norm="batch")(torch.zeros(1, 3, 1, 1), torch.zeros(1, 4, 1, 1))
