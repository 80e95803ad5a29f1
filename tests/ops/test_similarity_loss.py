"""similarity_loss against its definition, pair by pair, on every path of the kernel."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from numerics import assert_as_accurate, assert_gradients_of_both_orders, relative_error, saved_bytes
from sampling import DTYPES, LAYOUTS, leaf, random_image, random_labels, random_probabilities, seed_everything

from pyeqgan import backends
from pyeqgan.functional import similarity_loss
from pyeqgan.ops import similarity_loss as contract

OP = torch.ops.pyeqgan.similarity_loss.default
BACKWARD = torch.ops.pyeqgan.similarity_loss_backward.default

# (B,Nc,H,W): one pixel, one class, panels and blocks just off, an empty batch, an empty map.
SHAPES = (
    (2, 6, 5, 7),
    (1, 1, 1, 1),
    (3, 35, 6, 11),
    (2, 3, 17, 19),
    (1, 182, 4, 9),
    (0, 4, 3, 3),
    (2, 4, 0, 3),
    (1, 16, 16, 16),
)


@pytest.fixture(params=["native", "reference"], autouse=True)
def backend(request):
    """Every test runs on the kernel and on the oracle that stands in for it."""
    with backends.force(request.param, "similarity_loss"):
        yield request.param


@pytest.fixture
def native(backend):
    if backend != "native":
        pytest.skip("the kernel's promise: the oracle holds all pairs and sums as torch does")


def definition(probabilities, labels, *, ignore_index=-1, eps=1e-6):
    """torch's own cross entropy, one image at a time, pixels that are ignored left out."""
    wide = torch.promote_types(probabilities.dtype, torch.float32)
    images = []
    for p, flat in zip(probabilities.to(wide).flatten(2), labels.flatten(1), strict=True):
        valid = flat != ignore_index
        if valid.any():
            p, flat = p[:, valid], flat[valid]
            x = (p.T @ p).clamp(eps, 1 - eps)
            images.append(F.binary_cross_entropy(x, (flat[:, None] == flat).to(wide)))
    return torch.stack(images).mean() if images else 0 * probabilities.sum().to(wide)


def off_the_pairs(eps, probabilities):
    """An eps near this one, as far from every pair as may be: a pair that rounding clamps has another gradient."""
    p = probabilities.double().flatten(2)
    pairs = (p.mT @ p).flatten()
    near = torch.cat([pairs, 1 - pairs, torch.tensor([0.9 * eps, 1.1 * eps], dtype=torch.float64)])
    near = near[(near >= 0.9 * eps) & (near <= 1.1 * eps)].sort().values
    widest = int(near.diff().argmax())
    return float(near[widest : widest + 2].mean())


def run(function, probabilities, labels, **options):
    p = leaf(probabilities)
    loss = function(p, labels, **options)
    return [loss, *torch.autograd.grad(loss, p, torch.tensor(1.7, dtype=loss.dtype))]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_matches_the_truth_as_well_as_plain_pytorch(shape, dtype):
    seed_everything()
    settings = itertools.cycle([{}, {"eps": 0.2}, {"ignore_index": 2}, {"eps": 1e-3}])
    for layout, sharpness in itertools.product(LAYOUTS, (1.0, 6.0)):
        options = next(settings)
        p, labels = random_probabilities(shape, dtype, layout, sharpness), random_labels(shape)
        if "eps" in options:
            options = {"eps": off_the_pairs(options["eps"], p)}
        plain, truth = run(definition, p, labels, **options), run(definition, p.double(), labels, **options)
        assert_as_accurate(run(similarity_loss, p, labels, **options), plain, truth, dtype)


@pytest.mark.parametrize("sharpness", [0.0, 1e-3, 20.0, 1e3])
def test_as_accurate_when_all_pixels_or_no_two_are_alike(sharpness):
    """From all equal probabilities to one-hot ones, right and wrong: the losses of pairs span six decades."""
    seed_everything()
    labels = torch.randint(0, 5, (2, 9, 8))
    right = F.one_hot(labels, 5).permute(0, 3, 1, 2).double()
    noise = torch.randn(2, 5, 9, 8, dtype=torch.float64)
    for logits in (right * sharpness, right * sharpness + noise, noise * sharpness):
        p = logits.softmax(1).float()
        truth = run(definition, p.double(), labels)
        plain = run(definition, p, labels)
        assert_as_accurate(run(similarity_loss, p, labels), plain, truth, torch.float32)


def test_ignored_pixels_disturb_nobody():
    seed_everything()
    p, labels = random_probabilities((2, 5, 9, 8), torch.float32), random_labels((2, 5, 9, 8))
    ignored = (labels == -1)[:, None]
    clean, dirty = (run(similarity_loss, p.masked_fill(ignored, v), labels) for v in (0.0, math.nan))
    assert all(torch.equal(a, b) for a, b in zip(clean, dirty, strict=True))
    assert not clean[1].masked_select(ignored).any()


def test_images_without_a_pixel_are_not_counted():
    seed_everything()
    p, labels = random_probabilities((3, 5, 4, 6), torch.float64), random_labels((3, 5, 4, 6))
    labels[1] = -1
    both = run(similarity_loss, p, labels)
    assert not both[1][1].any()
    torch.testing.assert_close(both[0], similarity_loss(p[::2], labels[::2]))
    nothing = run(similarity_loss, p, torch.full_like(labels, -1))
    assert nothing[0] == 0 and not nothing[1].any()


def test_no_gradient_flows_where_it_is_clamped():
    p = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]).view(1, 2, 1, 3)
    for labels in (torch.tensor([[[0, 1, 0]]]), torch.tensor([[[0, 0, 1]]])):
        loss, grad = run(similarity_loss, p, labels, eps=0.01)
        assert not grad.any()
        torch.testing.assert_close(loss, definition(p, labels, eps=0.01))


def test_any_integers_are_labels():
    seed_everything()
    p, labels = random_probabilities((2, 5, 4, 6), torch.float64), torch.randint(0, 3, (2, 4, 6))
    names = torch.tensor([-(2**63), 2**62, 7])
    torch.testing.assert_close(similarity_loss(p, names[labels]), similarity_loss(p, labels))


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "sliced"])
def test_gradients_of_both_orders(layout, monkeypatch):
    seed_everything()
    monkeypatch.setattr(contract, "BLOCK_PAIRS", 60)  # several blocks of rows
    p = leaf(random_image((2, 3, 3, 4), torch.float64, layout).sigmoid_() / 2 + 0.1)
    labels = random_labels(p.shape, 2)

    def run(p):
        return similarity_loss(p, labels, eps=1e-3)

    assert_gradients_of_both_orders(run, (p,))


@pytest.mark.parametrize(
    ("shape", "layout"),
    [((2, 3, 4, 5), "channels_last"), ((2, 3, 4, 5), "sliced"), ((2, 1, 3, 2), "contiguous"), ((0, 3, 2, 2), "offset")],
    ids=str,
)
def test_opcheck(shape, layout, backend):
    """Schema, fake (shape, dtype, strides) and autograd registration, forward and backward, static and dynamic."""
    if backend == "reference" and layout != "channels_last":
        pytest.skip("one layout tells whether the oracle's results are laid out as the fake says; opcheck is slow")
    seed_everything()
    p, labels = leaf(random_image(shape, torch.float32, layout).sigmoid_()), random_labels(shape)
    torch.library.opcheck(OP, (p, labels, -1, 1e-6))
    torch.library.opcheck(BACKWARD, (torch.tensor(0.3, requires_grad=True), p, labels, -1, 1e-6))


def test_the_gradient_keeps_the_memory_format():
    p = leaf(random_probabilities((2, 8, 5, 6), torch.float32, "channels_last"))
    (grad,) = torch.autograd.grad(similarity_loss(p, random_labels(p.shape)), p)
    assert grad.is_contiguous(memory_format=torch.channels_last)


def test_saves_its_arguments():
    p, labels = torch.rand(2, 5, 6, 7, requires_grad=True), random_labels((2, 5, 6, 7))
    assert saved_bytes(lambda: similarity_loss(p, labels)) == 4 * p.numel() + 8 * labels.numel()


def peak_above_now(work) -> int:
    """Bytes by which ``work`` raises the resident memory of this process above what it is before."""
    reset = Path("/proc/self/clear_refs")
    if not reset.exists():
        pytest.skip("peak memory is read from Linux's /proc")

    def high_water() -> int:
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])

    reset.write_text("5")
    before = high_water()
    work()
    return high_water() - before


def test_no_matrix_of_pairs_in_memory(native):
    """One M×M matrix of float32 would be 268 MB."""
    seed_everything()
    p, labels = random_probabilities((1, 6, 128, 64), torch.float32).requires_grad_(), random_labels((1, 6, 128, 64))
    similarity_loss(p[..., :8], labels[..., :8]).backward()  # whatever a first call allocates
    assert peak_above_now(lambda: similarity_loss(p, labels).backward()) < 8e6


def test_no_matrix_of_pairs_in_memory_in_the_second_order(monkeypatch, native):
    """A dozen and more M×M matrices of float32, of 64 MB each, if it were not for the blocks."""
    seed_everything()
    monkeypatch.setattr(contract, "BLOCK_PAIRS", 1 << 18)
    p, labels = random_probabilities((1, 4, 64, 64), torch.float32).requires_grad_(), random_labels((1, 4, 64, 64))

    def penalty(p, labels):
        (grad,) = torch.autograd.grad(similarity_loss(p, labels), p, create_graph=True)
        grad.square().sum().backward()

    penalty(p[..., :4], labels[..., :4])
    assert peak_above_now(lambda: penalty(p, labels)) < 60e6


def test_result_does_not_depend_on_the_number_of_threads(native):
    seed_everything()
    p, labels = random_probabilities((2, 7, 31, 37), torch.float32), random_labels((2, 7, 31, 37), 9)
    threads = torch.get_num_threads()
    try:
        results = []
        for n in (1, 2, 5):
            torch.set_num_threads(n)
            results.append(run(similarity_loss, p, labels))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_nan_reaches_whoever_meets_it():
    seed_everything()
    p, labels = random_probabilities((2, 5, 7, 8), torch.float32), random_labels((2, 5, 7, 8))
    p[0, 1, 3, 3], labels[0, 3, 3] = math.nan, 2
    loss, grad = run(similarity_loss, p, labels)
    assert loss.isnan()
    assert torch.equal(grad[0].isnan().any(0), labels[0] != -1)  # each pixel of the image meets it
    assert grad[1].isfinite().all()


def test_incoming_gradients_of_any_size():
    seed_everything()
    p, labels = leaf(random_probabilities((1, 4, 5, 6), torch.float32)), random_labels((1, 4, 5, 6))
    loss = similarity_loss(p, labels)
    (expected,) = torch.autograd.grad(loss, p, retain_graph=True)
    for size in (1e-30, 1e30):
        (found,) = torch.autograd.grad(loss, p, torch.tensor(size), retain_graph=True)
        assert relative_error(found.double() / size, expected) < 1e-5


def test_compiles_without_a_graph_break():
    seed_everything()
    p, labels = leaf(random_probabilities((2, 4, 5, 6), torch.float32)), random_labels((2, 4, 5, 6))
    compiled = torch.compile(lambda p: similarity_loss(p, labels), fullgraph=True, backend="aot_eager")
    (expected,) = torch.autograd.grad(similarity_loss(p, labels), p)
    torch.testing.assert_close(torch.autograd.grad(compiled(p), p)[0], expected)


def test_forward_mode_is_refused():
    p, labels = torch.rand(1, 2, 3, 3), torch.zeros(1, 3, 3, dtype=torch.int64)
    with pytest.raises(NotImplementedError, match="forward-mode"):
        torch.func.jvp(lambda p: similarity_loss(p, labels), (p,), (p,))


P, L = torch.zeros(2, 3, 4, 5), torch.zeros(2, 4, 5, dtype=torch.int64)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (([1.0], L), {}, TypeError, "probabilities: expected a tensor, got list"),
        ((P[0], L), {}, ValueError, r"probabilities: expected shape \(B, Nc, H, W\), got shape \(3, 4, 5\)"),
        ((P.int(), L), {}, TypeError, "probabilities: expected torch.float32 or .*, got torch.int32"),
        ((P.to_sparse(), L), {}, TypeError, "probabilities: expected a strided"),
        ((P, None), {}, TypeError, "labels: expected a tensor, got NoneType"),
        ((P, L[:1]), {}, ValueError, r"labels: expected shape \(2, 4, 5\), got shape \(1, 4, 5\)"),
        ((P, L.mT), {}, ValueError, r"labels: expected shape \(2, 4, 5\), got shape \(2, 5, 4\)"),
        ((P, L.int()), {}, TypeError, "labels: expected torch.int64, got torch.int32"),
        ((P, L.to("meta")), {}, ValueError, "labels: expected device cpu, got meta"),
        ((P, L), {"ignore_index": 1.0}, TypeError, "ignore_index: expected an integer, got float"),
        ((P, L), {"eps": 0.0}, ValueError, "eps: expected a number in .*, got 0.0"),
        ((P, L), {"eps": 1e-8}, ValueError, "eps: expected a number in .*, got 1e-08"),
        ((P, L), {"eps": 0.5}, ValueError, "eps: expected a number in .*, got 0.5"),
        ((P, L), {"eps": math.nan}, ValueError, "eps: expected a finite number"),
        ((P, L), {"eps": "1"}, TypeError, "eps: expected a number, got str"),
    ],
)
def test_wrong_arguments_are_named(arguments, options, error, message):
    with pytest.raises(error, match=f"similarity_loss: {message}"):
        similarity_loss(*arguments, **options)


def test_a_direct_call_of_the_kernel_is_checked_too(native):
    good = (P, L, -1, 1e-6)
    for message, arguments in (
        ("probabilities: expected shape", (P[0], *good[1:])),
        ("labels: expected shape", (P, L[:1], *good[2:])),
        ("labels: expected Long", (P, L.int(), *good[2:])),
        ("eps: expected a number in", (P, L, -1, 0.5)),
    ):
        with pytest.raises(RuntimeError, match=message):
            OP(*arguments)
        with pytest.raises(RuntimeError, match=message):
            BACKWARD(torch.ones(()), *arguments)
    with pytest.raises(RuntimeError, match="grad_loss: expected shape"):
        BACKWARD(torch.ones(2), *good)
    with pytest.raises(RuntimeError, match="grad_loss: expected Float"):
        BACKWARD(torch.ones(()).double(), *good)
