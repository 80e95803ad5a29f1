"""contrastive_loss: against its definition, row by row, on every path of the kernel."""

from __future__ import annotations

import itertools
import math
import random

import pytest
import torch
import torch.nn.functional as F
from numerics import assert_as_accurate, relative_error
from sampling import DTYPES, leaf, seed_everything

from pyeqgan import backends, reference
from pyeqgan.functional import contrastive_loss
from pyeqgan.ops import _contrastive_blocks as blocks

MODES = ("per_positive", "supcon")


@pytest.fixture(params=["native", "reference"], autouse=True)
def backend(request):
    """Every test runs on the kernel and on the oracle that stands in for it."""
    with backends.force(request.param, "contrastive_loss"):
        yield request.param


@pytest.fixture
def native(backend):
    if backend != "native":
        pytest.skip(
            "the kernel's promise: the oracle multiplies NaN by zeros, squares what overflows, sums as torch does"
        )


def definition(q, labels, k=None, key_labels=None, *, temperature, mode, normalize, ids=None, key_ids=None, ignore=-1):
    """The losses as ops.md defines them, one query at a time."""
    if k is None:
        k, key_labels = q, labels
        ids = torch.arange(len(q)) if ids is None else ids
        key_ids = ids
    if normalize:
        q, k = F.normalize(q, eps=1e-12), F.normalize(k, eps=1e-12)
    rows = []
    for i in range(len(q)):
        s = k @ q[i] / temperature
        valid = key_labels != ignore
        if ids is not None:
            valid = valid & (key_ids != ids[i])
        positive, negative = valid & (key_labels == labels[i]), valid & (key_labels != labels[i])
        if labels[i] == ignore or not positive.any():
            rows.append(q.new_zeros(()))
        elif mode == "supcon":
            rows.append(s[valid].logsumexp(0) - s[positive].mean())
        elif not negative.any():
            rows.append(q.new_zeros(()))
        else:
            rows.append(F.softplus(s[negative].logsumexp(0) - s[positive], threshold=40).mean())
    return torch.stack(rows) + 0 * q.sum() if rows else q.sum(1)


def results(function, q, labels, k, key_labels, upstream, temperature=0.1, **options):
    """The losses and the gradients of queries, keys and temperature."""
    dtype = torch.promote_types(q.dtype, torch.float32) if q.dtype.itemsize == 2 else q.dtype
    inputs = [leaf(x) for x in (q, k) if x is not None] + [torch.tensor(temperature, dtype=dtype, requires_grad=True)]
    y = function(inputs[0], labels, *(inputs[1:-1] or [None]), key_labels, temperature=inputs[-1], **options)
    grads = torch.autograd.grad(y, inputs, upstream.to(y.dtype), allow_unused=True, materialize_grads=True)
    return [y, *grads]


def gradients(results):
    """All in one vector: the temperature's alone is a sum whose terms cancel."""
    return torch.cat([t.double().flatten() for t in results[1:]])


def sizes(features, upstream, normalize, temperature):
    """Of what cancels: logits to a loss, keys over the temperature to a row's gradient, and what those give in turn.

    A logit's rounding is that of the probabilities, too, in a row whose best keys nearly tie: one may.
    """
    given = [x.double().norm(dim=1) for x in features if x is not None]
    lengths = torch.cat(given) if len(upstream) else torch.ones(1)
    longest, shrunk = (1.0, float(lengths.min())) if normalize else (float(lengths.max()), 1.0)
    logit = longest**2 / temperature
    rows = float(upstream.norm()) + logit
    slopes = [rows * longest / (shrunk * temperature)] * len(given)
    return [len(upstream) ** 0.5 * logit, *slopes, rows * logit / temperature]


def ours(*arguments, ids=None, key_ids=None, **options):
    return contrastive_loss(*arguments, query_ids=ids, key_ids=key_ids, reduction="none", **options)


def plain(*arguments, ids=None, key_ids=None, **options):
    return reference.contrastive_loss(*arguments, query_ids=ids, key_ids=key_ids, reduction="none", **options)


def random_labels(size, classes):
    return torch.randint(-1, classes, (size,))


# Sizes just off a block, a tile, a vector; one and no row. Each with the channels and classes beside it.
SIZES = ((37, 23, 5, 3), (33, 64, 17, 4), (65, 31, 16, 2), (1, 1, 3, 1), (2, 40, 1, 1), (0, 5, 4, 2), (5, 0, 4, 2))
SETTINGS = [
    {"mode": mode, "normalize": normalize, "temperature": temperature}
    for mode, (normalize, temperature) in itertools.product(MODES, ((True, 0.1), (True, 0.013), (False, 2.0)))
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("separate", [False, True], ids=["self", "separate"])
def test_matches_the_definition_as_well_as_plain_pytorch(separate, dtype):
    random.seed(seed_everything())
    for (m, n, d, classes), options in itertools.product(SIZES, SETTINGS):
        q, labels = torch.randn(m, d, dtype=torch.float64).to(dtype), random_labels(m, classes)
        k, key_labels = (torch.randn(n, d, dtype=torch.float64).to(dtype), random_labels(n, classes))
        problem = (q, labels, k, key_labels) if separate else (q, labels, None, None)
        if random.random() < 0.5:
            ids = {"ids": torch.randint(random.choice((1, 4, 30)), (m,))}
            if separate:
                ids["key_ids"] = torch.randint(random.choice((1, 4, 30)), (n,))
            options = options | ids
        upstream = torch.rand(m, dtype=torch.float64) + 0.5
        exact = [q.double(), labels, k.double(), key_labels] if separate else [q.double(), labels, None, None]
        truth = results(definition, *exact, upstream, **options)
        found, expected = (results(f, *problem, upstream, **options) for f in (ours, plain))
        terms = sizes(problem[::2], upstream, options["normalize"], options["temperature"])
        assert_as_accurate(found, expected, truth, dtype, terms)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("m", "n", "d"), [(1300, None, 9), (700, 1300, 9), (1300, 70, 40), (150, None, 700)])
def test_many_blocks_of_several_tiles(m, n, d, mode):
    """Large enough for blocks of more than one tile, on either side, and rows wider than a block is long."""
    seed_everything()
    q, labels = torch.randn(m, d), random_labels(m, 5)
    keys = (None, None) if n is None else (torch.randn(n, d), random_labels(n, 5))
    upstream = torch.rand(m) + 0.5  # of one sign: the temperature's gradient is a sum over rows
    exact = (q.double(), labels, None if n is None else keys[0].double(), keys[1])
    truth = results(plain, *exact, upstream, mode=mode)
    found, expected = (results(f, q, labels, *keys, upstream, mode=mode) for f in (ours, plain))
    for one in (lambda r: r[0], gradients):
        assert_as_accurate([one(found)], [one(expected)], [one(truth)], torch.float32)


@pytest.mark.parametrize("mode", MODES)
def test_self_contrast_is_contrast_with_oneself(mode):
    """The symmetric path against the general one, where keys are the queries and ids exclude the same row."""
    seed_everything()
    q, labels, upstream = torch.randn(321, 7, dtype=torch.float64), random_labels(321, 4), torch.randn(321)
    ids = torch.randperm(321)
    loss, grad, slope = results(ours, q, labels, None, None, upstream, mode=mode)
    general = results(ours, q, labels, q.clone(), labels, upstream, mode=mode, ids=ids, key_ids=ids)
    assert relative_error(loss, general[0]) < 1e-13
    assert relative_error(grad, general[1] + general[2]) < 1e-13
    assert relative_error(slope, general[3]) < 1e-12


@pytest.mark.parametrize("mode", MODES)
def test_row_sums_of_the_gradient_of_the_scores_are_zero(mode):
    """A channel that is 1 in every key and 0 in every query sums the rows of G."""
    seed_everything()
    q, k = torch.randn(200, 9), torch.randn(150, 9)
    q[:, -1], k[:, -1] = 0, 1
    arguments = (q, random_labels(200, 4), k, random_labels(150, 4), torch.ones(200))
    grad = results(ours, *arguments, mode=mode, normalize=False, temperature=1.0)[1]
    assert grad[:, -1].abs().max() < 3e-6
    assert grad.abs().max() > 0.1


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("separate", [False, True], ids=["self", "separate"])
def test_gradients_of_both_orders(mode, separate, monkeypatch):
    seed_everything()
    monkeypatch.setattr(blocks, "BLOCK_SCORES", 40)  # several blocks of queries
    q, t = torch.randn(9, 4, dtype=torch.float64, requires_grad=True), leaf(torch.tensor(0.3, dtype=torch.float64))
    labels, key_labels = random_labels(9, 3), random_labels(11, 3) if separate else None
    k = torch.randn(11, 4, dtype=torch.float64, requires_grad=True) if separate else None

    def loss(q, k, t):
        return ours(q, labels, k, key_labels, temperature=t, mode=mode)

    assert torch.autograd.gradcheck(loss, (q, k, t))
    assert torch.autograd.gradgradcheck(loss, (q, k, t))


def test_layouts_of_features_labels_and_incoming_gradients():
    seed_everything()
    q, k = torch.randn(40, 12), torch.randn(30, 12)
    labels, key_labels, ids, key_ids = (torch.randint(4, (n,)) for n in (40, 30, 40, 30))
    upstream = torch.full((40,), 0.7)
    expected = results(ours, q, labels, k, key_labels, upstream, ids=ids, key_ids=key_ids)

    def sliced(x):
        return torch.stack([x, torch.full_like(x, 3)], -1)[..., 0]

    for layout in (sliced, lambda x: x.t().contiguous().t(), lambda x: torch.cat([x, x])[len(x) :]):
        strange = [layout(x) for x in (q, labels, k, key_labels)]
        found = results(ours, *strange, torch.tensor(0.7).expand(40), ids=layout(ids), key_ids=layout(key_ids))
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    (grad,) = results(ours, q[:1].expand(40, 12), labels, k, key_labels, upstream)[1:2]
    torch.testing.assert_close(grad, results(ours, q[:1].repeat(40, 1), labels, k, key_labels, upstream)[1])


def test_reductions():
    seed_everything()
    q, labels = torch.randn(20, 4, requires_grad=True), torch.tensor([0] * 9 + [1] * 8 + [-1, -1, 7])
    rows = contrastive_loss(q, labels, reduction="none")
    assert not rows[17:].any()
    torch.testing.assert_close(contrastive_loss(q, labels, reduction="sum"), rows.sum())
    torch.testing.assert_close(contrastive_loss(q, labels), rows.sum() / 17)
    (grad,) = torch.autograd.grad(rows.sum(), q)
    assert not grad[17:19].any()
    assert grad[19].any()  # without positives, yet a negative of the others
    nothing = contrastive_loss(q, torch.full((20,), -1))
    assert nothing == 0
    assert not torch.autograd.grad(nothing, q)[0].any()


@pytest.mark.parametrize("mode", MODES)
def test_labels_and_ids_may_be_any_integers(mode):
    seed_everything()
    q, k = torch.randn(60, 5, dtype=torch.float64), torch.randn(45, 5, dtype=torch.float64)
    values = torch.tensor([-(2**63), -7, 0, 3, 2**62, 2**63 - 1])
    labels, key_labels = values[torch.randint(6, (60,))], values[torch.randint(6, (45,))]
    upstream = torch.randn(60)
    for options in ({}, {"ids": values[torch.randint(6, (60,))], "key_ids": values[torch.randint(6, (45,))]}):
        found = results(ours, q, labels, k, key_labels, upstream, mode=mode, ignore_index=2**62, **options)
        truth = results(
            definition, q, labels, k, key_labels, upstream, mode=mode, normalize=True, ignore=2**62, **options
        )
        assert all(relative_error(a, b) < 1e-12 for a, b in zip(found, truth, strict=True))


def test_classes_alone():
    seed_everything()
    q = torch.randn(50, 6)
    one = torch.zeros(50, dtype=torch.int64)
    assert not contrastive_loss(q, one, reduction="none").any()  # no negatives
    assert (contrastive_loss(q, one, mode="supcon", reduction="none") >= math.log(49) - 1e-5).all()
    assert not contrastive_loss(q, torch.arange(50), reduction="none").any()  # no positives
    assert not contrastive_loss(q, one, query_ids=one, mode="supcon", reduction="none").any()  # nobody to meet


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("scale", [1e-42, 1e-30, 1e30, 1e38])
def test_normalised_features_of_any_size(scale, mode, native):
    """Also where the square of a feature, or the norm of a row, is beyond float32."""
    seed_everything()
    q, labels = (torch.randn(70, 20, dtype=torch.float64).clamp(-3, 3) * scale).float(), random_labels(70, 3)
    found = results(ours, q, labels, None, None, torch.ones(70), mode=mode)
    truth = results(definition, q.double(), labels, None, None, torch.ones(70), mode=mode, normalize=True)
    assert relative_error(found[0], truth[0]) < 1e-5
    gradients = truth[1].float()  # may be beyond float32 itself
    assert relative_error(found[1], gradients) < (1e-5 if gradients.abs().max() > 1e-37 else 0.2)


@pytest.mark.parametrize("mode", MODES)
def test_scores_of_any_size(mode):
    """Scores up to 1e5 in self-contrast, far beyond where their exponentials overflow."""
    seed_everything()
    for dtype, temperature in itertools.product((torch.float32, torch.float64), (1e-3, 0.05, 50.0)):
        q, labels = torch.randn(90, 8, dtype=torch.float64).to(dtype), random_labels(90, 3)
        options = {"mode": mode, "normalize": False, "temperature": temperature}
        truth = results(definition, q.double(), labels, None, None, torch.ones(90), **options)
        found, expected = (results(f, q, labels, None, None, torch.ones(90), **options) for f in (ours, plain))
        assert_as_accurate(found, expected, truth, dtype, sizes([q], torch.ones(90), False, temperature))


@pytest.mark.parametrize("size", [1e-36, 1e30])
def test_incoming_gradients_of_any_size(size):
    seed_everything()
    q, labels = torch.randn(80, 6), random_labels(80, 3)
    expected = results(ours, q, labels, None, None, torch.ones(80))[1]
    found = results(ours, q, labels, None, None, torch.full((80,), size))[1]
    assert relative_error(found / size, expected) < 1e-5


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_ignored_rows_disturb_nobody(bad, mode):
    seed_everything()
    q, k, labels, key_labels = torch.randn(70, 6), torch.randn(50, 6), random_labels(70, 3), random_labels(50, 3)
    clean, dirty = ([x.masked_fill(y[:, None] == -1, v) for x, y in ((q, labels), (k, key_labels))] for v in (0, bad))
    for keys in (True, False):
        a, b = (
            results(ours, x[0], labels, *((x[1], key_labels) if keys else (None, None)), torch.ones(70), mode=mode)
            for x in (clean, dirty)
        )
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nan_reaches_whoever_meets_it(bad, mode, native):
    seed_everything()
    q, k, labels, key_labels = torch.randn(70, 6), torch.randn(50, 6), random_labels(70, 3), random_labels(50, 3)
    q[11], labels[11] = bad, 2
    active = labels != -1
    loss, grad, slope = results(ours, q, labels, None, None, torch.ones(70), mode=mode)
    assert torch.equal(loss.isnan(), active)  # each of them meets row 11
    assert torch.equal(grad.isnan().all(1), active)
    assert slope.isnan()
    loss, grad, key_grad, _ = results(ours, q, labels, k, key_labels, torch.ones(70), mode=mode)
    assert torch.equal(loss.isnan(), torch.arange(70) == 11)
    assert torch.equal(grad.isnan().all(1), torch.arange(70) == 11)
    assert torch.equal(key_grad.isnan().all(1), key_labels != -1)
    labels[11] = 99  # no key has it: an inactive query touches nobody
    for result in results(ours, q, labels, k, key_labels, torch.ones(70), mode=mode):
        assert result.isfinite().all()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("separate", [False, True], ids=["self", "separate"])
def test_result_does_not_depend_on_the_number_of_threads(separate, mode, native):
    seed_everything()
    q, labels = torch.randn(1500, 24), random_labels(1500, 19)
    keys = (torch.randn(700, 24), random_labels(700, 19)) if separate else (None, None)
    threads = torch.get_num_threads()
    try:
        found = []
        for n in (1, 2, 5):
            torch.set_num_threads(n)
            found.append(results(ours, q, labels, *keys, torch.linspace(0, 1, 1500), mode=mode))
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))
