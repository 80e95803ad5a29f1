"""Products of 16-bit numbers on the matrix unit (csrc/cpu/matrix_unit.h), beyond what each operation's own tests ask:
numbers out of the range of its limbs, and sizes off its tiles."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from numerics import relative_error
from sampling import leaf, seed_everything

from pyeqgan import backends
from pyeqgan.functional import activated_conv2d, contrastive_loss

NATIVE = backends.native_module()
pytestmark = pytest.mark.skipif(
    NATIVE is None or NATIVE.cpu_capability() != "AMX", reason="this processor has no matrix unit, or it is not allowed"
)
# A few roundings of the result; a product of first limbs alone would be off by as much again.
ALLOWED = {torch.bfloat16: 3e-3, torch.float16: 4e-4}


def plain(x, weight, *, padding):
    return F.conv2d(F.pad(F.leaky_relu(x, 0.2), (padding,) * 4, mode="reflect"), weight)


def convolutions(x, weight, grad):
    """Outputs and gradients: those of the kernel, and in float64."""
    results = []
    for function, dtype in ((activated_conv2d, x.dtype), (plain, torch.float64)):
        a, b = leaf(x.to(dtype)), leaf(weight.to(dtype))
        y = function(a, b, padding=weight.shape[-1] // 2)
        results.append([y.detach(), *torch.autograd.grad(y, (a, b), grad.to(dtype))])
    return zip(*results, strict=True)


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", ALLOWED, ids=str)
@pytest.mark.parametrize("shape", [(2, 16, 17, 9, 13), (1, 33, 40, 20, 19), (3, 64, 32, 4, 4)], ids=str)
def test_sizes_off_the_tiles(shape, dtype, layout, kernel):
    seed_everything()
    batch, channels, outputs, height, width = shape
    x = torch.randn(batch, channels, height, width, dtype=torch.float64).to(dtype).contiguous(memory_format=layout)
    weight, grad = torch.randn(outputs, channels, kernel, kernel), torch.randn(batch, outputs, height, width)
    for ours, truth in convolutions(x, weight.to(dtype), grad.to(dtype)):
        assert relative_error(ours, truth) <= ALLOWED[dtype]


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("exponents", [(-100, 0), (-55, 20), (99, -60), (110, -100), (0, 0)], ids=str)
def test_magnitudes_out_of_range_cost_no_precision(exponents, kernel):
    seed_everything()
    x, weight = (torch.randn(2, 32, 12, 12), torch.randn(32, 32, kernel, kernel))
    x, weight = ((t.double() * 2.0**e).bfloat16() for t, e in zip((x, weight), exponents, strict=True))
    for ours, truth in convolutions(x, weight, torch.randn(2, 32, 12, 12).bfloat16()):
        assert relative_error(ours, truth) <= ALLOWED[torch.bfloat16]


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e37, 1e-39])
@pytest.mark.parametrize("where", ["x", "weight", "grad"])
def test_a_value_goes_no_further_than_its_neighbourhood(where, value, kernel):
    seed_everything()
    tensors = {"x": torch.randn(2, 32, 9, 8), "weight": torch.randn(32, 32, kernel, kernel)}
    tensors["grad"] = torch.randn(2, 32, 9, 8)
    tensors[where][(1, 3, 0, 0) if where == "weight" else (1, 3, 4, 3)] = value
    x, weight, grad = (tensors[name].bfloat16() for name in ("x", "weight", "grad"))
    for ours, truth in convolutions(x, weight, grad):
        expected = truth.bfloat16()
        finite = expected.isfinite()
        assert torch.equal(ours.isfinite(), finite)
        assert torch.equal(ours[~finite].isnan(), expected[~finite].isnan())
        assert relative_error(ours[finite], expected[finite]) <= 2 * ALLOWED[torch.bfloat16]


@pytest.mark.parametrize("mode", ["per_positive", "supcon"])
@pytest.mark.parametrize("exponent", [-60, 0, 60])
@pytest.mark.parametrize("separate", [False, True])
def test_contrastive_loss_of_any_magnitude(separate, exponent, mode):
    seed_everything()
    labels = torch.randint(5, (150,))
    queries, keys = ((torch.randn(150, 40).double() * 2.0**exponent).bfloat16() for _ in range(2))
    others = (keys, labels.flip(0)) if separate else ()

    def both(dtype):
        a = leaf(queries.to(dtype))
        b = [leaf(keys.to(dtype))] if separate else []
        loss = contrastive_loss(a, labels, *b, *others[1:], mode=mode)
        return [loss.detach(), *torch.autograd.grad(loss, (a, *b))]

    for ours, truth in zip(both(torch.bfloat16), both(torch.float64), strict=True):
        assert relative_error(ours, truth) <= ALLOWED[torch.bfloat16]
