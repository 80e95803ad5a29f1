"""The CUDA C++ kernels of contrastive_loss, run on the CPU, against the oracle."""

from __future__ import annotations

import ctypes
import math

import pytest
import torch
from numerics import assert_as_accurate, relative_error
from sampling import leaf, seed_everything
from torch import Tensor

from pyeqgan import reference

MODES = ("per_positive", "supcon")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# M, N, D, classes: off blocks of 128 rows, tiles of 64 columns and chunks of 64 or 32 channels; one row, no partner;
# no channel; more classes than rows; two segments.
SIZES = (
    (37, 70, 5, 3),
    (150, 201, 64, 4),
    (65, 129, 77, 2),
    (1, 1, 3, 1),
    (9, 7, 0, 2),
    (130, 63, 16, 40),
    (5, 600, 9, 2),
)


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
    grads = torch.autograd.grad(loss, wanted, upstream.to(loss.dtype), allow_unused=True, materialize_grads=True)
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
    """Every size with both kinds of keys, and over the dtypes in both modes; with and without normalisation and ids."""
    seed = seed_everything()
    first = SIZES.index(size) + DTYPES.index(dtype)
    settings = ((True, 0.1), (True, 0.013), (False, 2.0))
    for i in (first % 4, (first + 2) % 4):
        normalize, temperature = settings[(first + i // 2) % 3]
        separate, ids = i // 2 == 1, (None, None)
        if (first + i // 2) % 2:
            ids = (torch.randint(30, (size[0],)), torch.randint(30, (size[1],)) if separate else None)
        arguments = problem(*size, dtype, separate)
        options = (temperature, MODES[i % 2], normalize, -1, *ids)
        compare(contrastive, torch.rand(size[0]) + 0.5, *arguments, *options, seed=seed)


@pytest.fixture
def shared_bytes(contrastive):
    """Makes a block of the emulated device have other shared memory than an H200's, for one test."""

    def become(limit: int) -> None:
        contrastive.library.emulation_device(limit, 132, 50 << 20)

    yield become
    become(227 * 1024)


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
def test_channels_that_fill_two_panels(contrastive, dtype):
    seed_everything()
    arguments = problem(20, 70, 512 // dtype.itemsize + 3, 2, dtype, True)
    compare(contrastive, torch.rand(20), *arguments, 0.1, "per_positive", True, -1, None, None)


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
def test_tiles_take_turns_in_what_shared_memory_there_is(contrastive, dtype, shared_bytes):
    """Two buffers, one as where a block may have 99 KiB, none."""
    seed_everything()
    arguments = (*problem(20, 70, 512 // dtype.itemsize, 2, dtype, True), 0.1, "supcon", True, -1, None, None)
    results = []
    for limit in (227 * 1024, 99 * 1024):
        shared_bytes(limit)
        results.append(kernels(contrastive, torch.ones(20), *arguments))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    shared_bytes(48 * 1024)
    contrastive.forward(*arguments)
    assert contrastive.result == 9  # cudaErrorInvalidConfiguration


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
def test_the_order_of_threads_and_blocks_does_not_matter(contrastive, dtype):
    seed_everything()
    arguments = (*problem(70, 90, 9, 3, dtype, True), 0.1, "per_positive", True, -1, None, None)
    first, *others = [kernels(contrastive, torch.ones(70), *arguments, seed=seed) for seed in range(3)]
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_few_classes_leave_tiles_out(contrastive):
    """Tiles of which all pairs are positive, labels beyond any int32, and a temperature on the device."""
    seed_everything()
    labels = torch.tensor([2**63 - 1] * 180 + [-(2**63)] * 20 + [5] * 9)[torch.randperm(209)]
    arguments = (torch.randn(209, 6), labels, None, None, torch.tensor(0.1), "per_positive", True, 5, None, None)
    compare(contrastive, torch.rand(209), *arguments)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("scale", "temperature"), [(1e-42, 0.1), (1e38, 0.1), (30.0, 1e-2)])
def test_features_and_scores_of_any_size(contrastive, mode, scale, temperature):
    """Squares beyond float32 if normalised; if not, scores far beyond where their exponentials overflow."""
    seed_everything()
    normalize = scale != 30.0
    q, labels = (torch.randn(70, 20, dtype=torch.float64).clamp(-3, 3) * scale).float(), torch.randint(3, (70,))
    options = (labels, None, None, temperature, mode, normalize, -1, None, None)
    if not normalize:
        compare(contrastive, torch.ones(70), q, *options)
        return
    found = kernels(contrastive, torch.ones(70), q, *options)
    truth = oracle(torch.ones(70), q.double(), *options)
    assert relative_error(found[0], truth[0]) < 1e-5
    gradients = truth[2].float()  # may be beyond float32 itself
    assert relative_error(found[2], gradients) < (1e-5 if gradients.abs().max() > 1e-37 else 0.2)


@pytest.mark.parametrize("size", [1e-36, 1e30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_incoming_gradients_of_any_size(contrastive, dtype, size):
    seed_everything()
    arguments = (torch.randn(80, 6).to(dtype), torch.randint(3, (80,)), None, None, 0.1, "per_positive", True, -1)
    expected = kernels(contrastive, torch.ones(80), *arguments, None, None)
    found = kernels(contrastive, torch.full((80,), size), *arguments, None, None)
    assert relative_error(found[3] / size, expected[3]) < 1e-5
    if dtype == torch.float32:
        assert relative_error(found[2] / size, expected[2]) < 1e-5


def test_small_gradients_in_float16(contrastive):
    """Queries of which each weighs ten thousand times less than another, among keys that share what they give."""
    seed_everything()
    q, k, labels = torch.randn(50, 20).half(), torch.randn(250, 20).half(), torch.arange(50) % 2
    options = (torch.arange(250) % 2, 1.0, "supcon", True, -1, None, None)
    upstream = torch.logspace(0, -4, 50)
    found = kernels(contrastive, upstream, q, labels, k, *options)[2].double()
    truth = oracle(upstream, q.double(), labels, k.double(), *options)[2]
    assert ((found - truth).norm(dim=1) < 2e-3 * truth.norm(dim=1) + 1e-7).all()


@pytest.mark.parametrize("mode", MODES)
def test_nan_goes_no_further_than_the_maths(contrastive, mode):
    seed_everything()
    q, k = torch.randn(70, 6), torch.randn(80, 6)
    labels, key_labels = torch.randint(-1, 3, (70,)), torch.randint(-1, 3, (80,))
    labels[0], key_labels[0] = -1, -1
    q[0], k[0] = math.nan, math.inf  # ignored: they disturb nobody
    q[11], labels[11] = math.nan, 2
    options = (0.1, mode, True, -1, None, None)
    loss, _, grad, key_grad, slope = kernels(contrastive, torch.ones(70), q, labels, k, key_labels, *options)
    assert torch.equal(loss.isnan(), torch.arange(70) == 11) and slope.isnan()
    assert torch.equal(grad.isnan().all(1), torch.arange(70) == 11)
    assert torch.equal(key_grad.isnan().all(1), key_labels != -1)
    loss, _, grad, _ = kernels(contrastive, torch.ones(70), q, labels, None, None, *options)
    assert torch.equal(loss.isnan(), labels != -1) and torch.equal(grad.isnan().all(1), labels != -1)
    labels[11] = 99  # no key has it: an inactive query touches nobody
    for result in kernels(contrastive, torch.ones(70), q, labels, k, key_labels, *options):
        assert result.isfinite().all()


def test_only_what_is_asked_for_is_computed(contrastive):
    seed_everything()
    arguments = (*problem(40, 30, 6, 3, torch.float32, True), 0.1, "per_positive", True, -1, None, None)
    _, boundary, weight, _ = contrastive.forward(*arguments)
    saved = {"boundary": boundary, "weight": weight}
    every = contrastive.backward(torch.ones(40), *arguments, **saved)
    for needs in ((True, False, False), (False, True, False), (False, False, True), (False, False, False)):
        found = contrastive.backward(torch.ones(40), *arguments, **saved, needs=needs)
        for grad, whole, needed in zip(found, every, needs, strict=True):
            assert (grad is not None) == needed
            if grad is not None:
                torch.testing.assert_close(grad, whole)


def test_nothing_to_do(contrastive):
    for m, n in ((0, 5), (5, 0)):
        arguments = problem(m, n, 4, 2, torch.float32, True)
        loss, count, grad, key_grad, slope = kernels(
            contrastive, torch.ones(m), *arguments, 0.1, "per_positive", True, -1, None, None
        )
        for result in (loss, count, grad, key_grad, slope):
            assert not result.any()


def test_what_no_kernel_takes_is_refused(contrastive):
    arguments = problem(3, 3, 4, 2, torch.float32, False)
    about = contrastive._problem(*arguments, 0.1, "supcon", True, -1, None, None)
    for name, value in (("channels", -1), ("dtype", 3), ("dtype", -1)):
        kept = getattr(about, name)
        setattr(about, name, value)
        assert contrastive.library.pyeqgan_contrastive_loss(ctypes.byref(about), *[None] * 6) == 1
        setattr(about, name, kept)
    about.queries.count = 2**31 - 127
    assert contrastive.library.pyeqgan_contrastive_loss(ctypes.byref(about), *[None] * 6) == 1


@pytest.mark.parametrize("axis", range(2))
def test_strides_beyond_two_to_the_31(contrastive, axis, tmp_path):
    """Few features so far apart that no int32 reaches them, in a sparse file of which little exists."""
    seed_everything()
    far, strides = 2**31 + 8, [7, 1]
    strides[axis] = far
    file = tmp_path / "sparse"
    flat = torch.from_file(str(file), shared=True, size=9 * far, dtype=torch.float16)
    file.unlink()
    q, labels = torch.randn(6, 5).half(), torch.tensor([0, 1, 0, 1, 1, 0])
    options = (labels, None, None, 0.1, "supcon", True, -1, None, None)
    near = contrastive.forward(q, *options)
    far_apart = contrastive.forward(flat.as_strided(q.shape, strides).copy_(q), *options)
    for value, expected in zip(far_apart, near, strict=True):
        assert torch.equal(value, expected)
