"""The CUDA C++ kernels of contrastive_loss, run on the CPU, against the oracle."""

from __future__ import annotations

import math

import pytest
import torch
from numerics import assert_as_accurate, relative_error
from sampling import leaf, seed_everything
from torch import Tensor

from pyeqgan import reference

MODES = ("per_positive", "supcon")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# M, N, D, classes: off blocks of 128 rows, tiles of 64 columns and chunks of 64 or 32 channels; two segments; two panels
# of channels; one row, no partner; more classes than rows.
SIZES = ((37, 70, 5, 3), (150, 201, 64, 4), (65, 129, 77, 2), (1, 1, 3, 1), (130, 63, 16, 40), (5, 600, 9, 2))


def problem(m, n, d, classes, dtype, separate):
    q, labels = torch.randn(m, d, dtype=torch.float64).to(dtype), torch.randint(-1, classes, (m,))
    if not separate:
        return q, labels, None, None
    return q, labels, torch.randn(n, d, dtype=torch.float64).to(dtype), torch.randint(-1, classes, (n,))


def oracle(upstream, q, labels, k, key_labels, temperature, *options) -> list[Tensor]:
    """The losses and counts, and the gradients of queries, keys and temperature."""
    temperature = torch.as_tensor(temperature, dtype=torch.promote_types(q.dtype, torch.float32))
    inputs = [None if x is None else leaf(x) for x in (q, k, temperature)]
    loss, _, _, count = reference.contrastive_rows(inputs[0], labels, inputs[1], key_labels, inputs[2], *options)
    wanted = [x for x in inputs if x is not None]
    grads = torch.autograd.grad(
        loss, wanted, upstream.to(loss.dtype), allow_unused=True, materialize_grads=True
    )
    return [loss.detach(), count, *grads]


def kernels(contrastive, upstream, *arguments, seed=0) -> list[Tensor]:
    contrastive.library.emulation_seed(seed)
    loss, boundary, weight, count = contrastive.forward(*arguments)
    assert contrastive.result == 0
    needs = (True, arguments[2] is not None, True)
    grads = contrastive.backward(upstream, *arguments, boundary=boundary, weight=weight, needs=needs)
    assert contrastive.result == 0
    return [loss, count, *(g for g in grads if g is not None)]


def compare(contrastive, upstream, q, labels, k, key_labels, *options, seed=0):
    """Ours and plain PyTorch against the truth; all gradients as one vector: some are sums whose terms cancel."""
    found = kernels(contrastive, upstream, q, labels, k, key_labels, *options, seed=seed)
    plain = oracle(upstream, q, labels, k, key_labels, *options)
    truth = oracle(upstream, q.double(), labels, None if k is None else k.double(), key_labels, *options)
    assert torch.equal(found[1], truth[1])
    for part in (lambda r: r[0].double(), lambda r: torch.cat([t.double().flatten() for t in r[2:]])):
        if part(truth).norm() > 1e-6:
            assert_as_accurate([part(found)], [part(plain)], [part(truth)], q.dtype)
        else:
            assert part(found).norm() < 1e-3


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_matches_the_truth_as_well_as_plain_pytorch(contrastive, size, dtype):
    """Every size with both modes and both kinds of keys; normalisation, temperature and ids go along with them."""
    seed = seed_everything()
    first = SIZES.index(size) + DTYPES.index(dtype)
    settings = ((True, 0.1), (True, 0.013), (False, 2.0))
    for i in range(4):
        normalize, temperature = settings[(first + i) % 3]
        separate, ids = i // 2 == 1, (None, None)
        if (first + i) % 2:
            ids = (torch.randint(30, (size[0],)), torch.randint(30, (size[1],)) if separate else None)
        arguments = problem(*size, dtype, separate)
        options = (temperature, MODES[i % 2], normalize, -1, *ids)
        compare(contrastive, torch.rand(size[0]) + 0.5, *arguments, *options, seed=seed)
