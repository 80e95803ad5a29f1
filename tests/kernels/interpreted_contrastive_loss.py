"""The Triton kernels of contrastive_loss in Triton's interpreter, against the oracle.

Collected by test_triton_interpreter.py alone, in a process that has TRITON_INTERPRET=1 from its start: bfloat16 is left
out, because the interpreter computes it wrongly, and tf32 is computed as float32 (both count only on a GPU).
"""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import triton
import triton.language as tl
from numerics import assert_as_accurate, relative_error
from sampling import leaf, seed_everything

from pyeqgan import backends, reference
from pyeqgan.functional import contrastive_loss
from pyeqgan.kernels import _contrastive_rows as sides
from pyeqgan.kernels import _rows as rows
from pyeqgan.kernels import contrastive_loss as kernels

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::DeprecationWarning")
MODES = ("per_positive", "supcon")
# M, N, D, classes: within and beyond a tile of 64 rows and 64 channels, just off them; one row, no partner.
SIZES = ((37, 70, 5, 3), (150, 201, 64, 4), (65, 129, 77, 2), (1, 1, 3, 1), (130, 63, 16, 40), (70, 90, 130, 2))


@pytest.fixture(autouse=True)
def backend():
    with backends.force("triton", "contrastive_loss"):
        yield


def results(function, q, labels, k, key_labels, upstream, temperature=0.1, **options):
    """The losses, and the gradients of queries, keys and temperature."""
    dtype = torch.promote_types(q.dtype, torch.float32)
    inputs = [leaf(x) for x in (q, k) if x is not None] + [torch.tensor(temperature, dtype=dtype, requires_grad=True)]
    y = function(
        inputs[0], labels, *(inputs[1:-1] or [None]), key_labels, temperature=inputs[-1], reduction="none", **options
    )
    grads = torch.autograd.grad(y, inputs, upstream.to(y.dtype), allow_unused=True, materialize_grads=True)
    return [y.detach(), *grads]


def problem(m, n, d, classes, dtype, separate):
    q, labels = torch.randn(m, d, dtype=torch.float64).to(dtype), torch.randint(-1, classes, (m,))
    if not separate:
        return q, labels, None, None
    return q, labels, torch.randn(n, d, dtype=torch.float64).to(dtype), torch.randint(-1, classes, (n,))


def compare(q, labels, k, key_labels, upstream, **options):
    """Ours and plain PyTorch against the truth; all gradients as one vector: some are sums whose terms cancel."""
    exact = (q.double(), labels, None if k is None else k.double(), key_labels)
    truth = results(reference.contrastive_loss, *exact, upstream, **options)
    found, plain = (
        results(f, q, labels, k, key_labels, upstream, **options)
        for f in (contrastive_loss, reference.contrastive_loss)
    )
    for one in (lambda r: r[0], lambda r: torch.cat([t.double().flatten() for t in r[1:]])):
        if one(truth).norm() > 1e-6:
            assert_as_accurate([one(found)], [one(plain)], [one(truth)], q.dtype)
        else:
            assert one(found).norm() < 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_matches_the_truth_as_well_as_plain_pytorch(size, dtype):
    seed_everything()
    first = SIZES.index(size) + 3 * (dtype == torch.float16)
    settings = ((True, 0.1), (True, 0.013), (False, 2.0))
    for i in (first, first + 3):
        mode, separate = MODES[i % 2], i // 2 % 2 == 1
        normalize, temperature = settings[i % 3]
        ids = {}
        if i % 5 in (1, 3):
            ids = {"query_ids": torch.randint(30, (size[0],))}
            if separate:
                ids["key_ids"] = torch.randint(30, (size[1],))
        upstream = torch.rand(size[0]) + 0.5
        arguments = problem(*size, dtype, separate)
        compare(*arguments, upstream, mode=mode, normalize=normalize, temperature=temperature, **ids)


@pytest.mark.parametrize("mode", MODES)
def test_segments_of_the_other_side_are_added(mode, monkeypatch):
    """Several programs to a block of rows: the same result but for rounding, in its promised precision."""
    seed_everything()
    monkeypatch.setattr(rows, "SEGMENT", 128)
    assert rows.segments_of(256, 300) == (3, 128)
    for separate in (False, True):
        compare(*problem(140, 300, 9, 2, torch.float32, separate), torch.rand(140), mode=mode)


def test_segments_cover_everything():
    for own, others in itertools.product((128, 4096, 10**6), (1, 511, 513, 70_000, 10**7)):
        count, span = rows.segments_of(own, others)
        assert span % rows.PADDING == 0 and (count - 1) * span < others <= count * span
        assert count == 1 or count * own <= rows.PROGRAMS * rows.PADDING


def test_few_classes_leave_tiles_out():
    """Blocks of which all pairs are positive, and labels beyond any int32."""
    seed_everything()
    labels = torch.tensor([2**63 - 1] * 180 + [-(2**63)] * 20 + [5] * 9)[torch.randperm(209)]
    compare(torch.randn(209, 6), labels, None, None, torch.rand(209), ignore_index=5)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("scale", "temperature"), [(1e-42, 0.1), (1e38, 0.1), (30.0, 1e-2)])
def test_features_and_scores_of_any_size(mode, scale, temperature):
    """Squares beyond float32 if normalised; if not, scores far beyond where their exponentials overflow."""
    seed_everything()
    normalize = scale != 30.0
    q, labels = (torch.randn(70, 20, dtype=torch.float64).clamp(-3, 3) * scale).float(), torch.randint(3, (70,))
    options = {"mode": mode, "normalize": normalize, "temperature": temperature}
    if not normalize:
        return compare(q, labels, None, None, torch.ones(70), **options)
    found = results(contrastive_loss, q, labels, None, None, torch.ones(70), **options)
    truth = results(reference.contrastive_loss, q.double(), labels, None, None, torch.ones(70), **options)
    assert relative_error(found[0], truth[0]) < 1e-5
    gradients = truth[1].float()  # may be beyond float32 itself
    assert relative_error(found[1], gradients) < (1e-5 if gradients.abs().max() > 1e-37 else 0.2)


@pytest.mark.parametrize("size", [1e-36, 1e30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_incoming_gradients_of_any_size(dtype, size):
    """Within the operation: what autograd hands on in float16 it cannot hold."""
    seed_everything()
    q, labels, t = torch.randn(80, 6).to(dtype), torch.randint(3, (80,)), torch.tensor(0.1)
    arguments = (q, labels, None, None, t, "per_positive", True, -1, None, None)
    _, *saved = kernels.forward(*arguments)
    expected = kernels.backward(torch.ones(80), *arguments, *saved, True, False, True)
    found = kernels.backward(torch.full((80,), size), *arguments, *saved, True, False, True)
    assert relative_error(found[2] / size, expected[2]) < 1e-5
    if dtype == torch.float32:
        assert relative_error(found[0] / size, expected[0]) < 1e-5


def test_small_gradients_in_float16():
    """Queries of which each weighs ten thousand times less than another, among keys that share what they give."""
    seed_everything()
    q, k, labels = torch.randn(50, 20), torch.randn(250, 20), torch.arange(50) % 2
    arguments = (labels, k.half(), torch.arange(250) % 2)
    upstream = torch.logspace(0, -4, 50)
    found = results(contrastive_loss, q.half(), *arguments, upstream, temperature=1.0, mode="supcon")[1].double()
    exact = (q.half().double(), labels, k.half().double(), arguments[2])
    truth = results(reference.contrastive_loss, *exact, upstream, temperature=1.0, mode="supcon")[1]
    assert ((found - truth).norm(dim=1) < 2e-3 * truth.norm(dim=1) + 1e-7).all()


@pytest.mark.parametrize("mode", MODES)
def test_nan_goes_no_further_than_the_maths(mode):
    seed_everything()
    q, k, labels, key_labels = (
        torch.randn(70, 6),
        torch.randn(80, 6),
        torch.randint(-1, 3, (70,)),
        torch.randint(-1, 3, (80,)),
    )
    labels[0], key_labels[0] = -1, -1
    q[0], k[0] = math.nan, math.inf  # ignored: they disturb nobody
    q[11], labels[11] = math.nan, 2
    loss, grad, key_grad, slope = results(contrastive_loss, q, labels, k, key_labels, torch.ones(70), mode=mode)
    assert torch.equal(loss.isnan(), torch.arange(70) == 11) and slope.isnan()
    assert torch.equal(grad.isnan().all(1), torch.arange(70) == 11)
    assert torch.equal(key_grad.isnan().all(1), key_labels != -1)
    loss, grad, _ = results(contrastive_loss, q, labels, None, None, torch.ones(70), mode=mode)
    assert torch.equal(loss.isnan(), labels != -1) and torch.equal(grad.isnan().all(1), labels != -1)
    labels[11] = 99  # no key has it: an inactive query touches nobody
    for result in results(contrastive_loss, q, labels, k, key_labels, torch.ones(70), mode=mode):
        assert result.isfinite().all()


def test_only_what_is_asked_for_is_computed():
    seed_everything()
    q, k, t = torch.randn(40, 6), torch.randn(30, 6), torch.tensor(0.1)
    arguments = (q, torch.randint(3, (40,)), k, torch.randint(3, (30,)), t, "per_positive", True, -1, None, None)
    _, *saved = kernels.forward(*arguments)
    every = kernels.backward(torch.ones(40), *arguments, *saved, True, True, True)
    for needs in ((True, False, False), (False, True, False), (False, False, True), (False, False, False)):
        found = kernels.backward(torch.ones(40), *arguments, *saved, *needs)
        for grad, whole, needed in zip(found, every, needs, strict=True):
            assert grad.numel() == (whole.numel() if needed else 0)
            if needed:
                torch.testing.assert_close(grad, whole)


def test_nothing_to_do():
    for m, n in ((0, 5), (5, 0)):
        loss, grad, key_grad, slope = results(
            contrastive_loss, *problem(m, n, 4, 2, torch.float32, True), torch.ones(m)
        )
        assert loss.shape == (m,) and not loss.any() and not grad.any() and not key_grad.any() and slope == 0


def test_float64_is_refused():
    with pytest.raises(TypeError, match="queries: expected float32, bfloat16 or float16, got torch"):
        contrastive_loss(torch.zeros(2, 2, dtype=torch.float64), torch.zeros(2, dtype=torch.int64))


@pytest.mark.parametrize("axis", range(2))
def test_strides_beyond_two_to_the_31(axis, tmp_path):
    """Few features so far apart that no int32 reaches them, in a sparse file of which little exists."""
    seed_everything()
    far, strides = 2**31 + 8, [7, 1]
    strides[axis] = far
    file = tmp_path / "sparse"
    flat = torch.from_file(str(file), shared=True, size=9 * far, dtype=torch.float16)
    file.unlink()
    q, labels = torch.randn(6, 5).half(), torch.tensor([0, 1, 0, 1, 1, 0])
    far_q = flat.as_strided(q.shape, strides).copy_(q)
    expected = results(contrastive_loss, q, labels, None, None, torch.ones(6))
    for value, other in zip(results(contrastive_loss, far_q, labels, None, None, torch.ones(6)), expected, strict=True):
        assert torch.equal(value, other)


@triton.jit
def _copy_block(values, first, result):
    block = rows.block_of_rows(values, first, 16, 64, 16, 16)
    tl.store(result + rows.row_offsets(0, 0, 16, 16, 16), block)


def test_rows_beyond_two_to_the_31(tmp_path):
    """Sorted rows, their gradients and the gradients' target, each with more elements than an int32 can count."""
    file = tmp_path / "sparse"
    flat = torch.from_file(str(file), shared=True, size=2**31 + 2**20, dtype=torch.float16)
    file.unlink()
    first = 2**25 + 16
    flat.as_strided((16, 16), (64, 1), first * 64 + 16).copy_(torch.arange(256.0).view(16, 16))
    result = torch.empty(16, 16, dtype=torch.float16)
    _copy_block[(1,)](flat, first, result)
    assert torch.equal(result, torch.arange(256.0).view(16, 16).half())

    order = torch.arange(16) + 2**25
    some = torch.ones(16, 16), torch.ones(16, 16).half(), torch.ones(16), torch.ones(16)
    sides.scatter.fn[(1,)](
        *some, torch.tensor(3.0), order, torch.tensor(16), flat, torch.empty(16), 64,
        WIDTH=16, NORMALIZE=False, ROWS=16, CHANNELS=16,
    )  # fmt: skip
    assert torch.equal(flat.as_strided((16, 16), (64, 1), 2**31), torch.full((16, 16), 3.0).half())
