import pytest
import torch
import torch.nn.functional as F
from numerics import saved_bytes
from sampling import random_image
from torch import Tensor

from pyeqgan.models.eqgan.pooling import ReflectAveragePool


def padded_pool(x: Tensor) -> Tensor:
    return F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), 3, stride=2)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "sliced", "transposed"])
@pytest.mark.parametrize("side", [2, 4, 48])
def test_it_is_padding_and_pooling_in_every_layout(layout, side):
    x = random_image((2, 3, side, side), torch.float64, layout)
    y, expected = ReflectAveragePool(side).double()(x), padded_pool(x)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-14)
    if layout in ("contiguous", "channels_last"):
        assert y.stride() == expected.stride()


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_gradients_of_both_orders(layout):
    pool = ReflectAveragePool(4).double()
    x = random_image((1, 2, 4, 4), torch.float64, layout).requires_grad_()
    assert torch.autograd.gradcheck(pool, x) and torch.autograd.gradgradcheck(pool, x)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_it_saves_nothing_but_its_matrix(layout):
    pool, x = ReflectAveragePool(16), random_image((4, 8, 16, 16), torch.float32, layout).requires_grad_()
    assert saved_bytes(lambda: pool(x)) <= pool.sums.nbytes


def test_bfloat16_is_not_biased():
    """A third is no bfloat16: a matrix of thirds would lose 0.4 % of every sum."""
    pool = ReflectAveragePool(16).bfloat16()
    assert (pool(torch.ones(1, 1, 16, 16, dtype=torch.bfloat16)) == 1).all()


def test_checkpoints_do_not_hold_it():
    assert ReflectAveragePool(16).state_dict() == {}
