"""contrastive_loss: registration, memory, errors."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from numerics import relative_error, saved_bytes
from sampling import seed_everything

from pyeqgan import backends, reference
from pyeqgan.functional import contrastive_loss
from pyeqgan.ops import _contrastive_blocks as blocks

OP = torch.ops.pyeqgan.contrastive_loss.default
BACKWARD = torch.ops.pyeqgan.contrastive_loss_backward.default


@pytest.fixture
def native():
    if backends.explain()["contrastive_loss"]["cpu"].backend != "native":
        pytest.skip("the compiled kernel's promise, which is not here")


def test_opcheck():
    """Schema, fake (shape, dtype, strides) and autograd registration, forward and backward, static and dynamic."""
    seed_everything()
    t = torch.tensor(0.2, requires_grad=True)
    q, k = torch.randn(9, 8, requires_grad=True), torch.randn(4, 7).T.requires_grad_()
    labels, key_labels, ids, key_ids = (torch.randint(3, (n,)) for n in (9, 7, 9, 7))
    sliced = torch.randn(9, 8)[:, ::2].requires_grad_()
    for arguments in (
        (q, labels, None, None, t, "per_positive", True, -1, None, None),
        (sliced, labels, k, key_labels, t, "supcon", False, -1, ids, key_ids),
        (sliced[:0].detach(), labels[:0], k, key_labels, t, "supcon", True, -1, None, None),
    ):
        torch.library.opcheck(OP, arguments)
        _, *saved = OP(*arguments)
        grad = torch.randn(len(arguments[1]), requires_grad=True)
        torch.library.opcheck(BACKWARD, (grad, *arguments, *(s.detach() for s in saved), True, True, True))


def test_saves_the_arguments_and_three_numbers_a_query():
    q, k, t = torch.randn(30, 6, requires_grad=True), torch.randn(20, 6, requires_grad=True), torch.tensor(0.1)
    labels, key_labels = torch.randint(3, (30,)), torch.randint(3, (20,))
    arguments = 4 * (q.numel() + k.numel() + 1) + 8 * (30 + 20)
    assert saved_bytes(
        lambda: contrastive_loss(q, labels, k, key_labels, temperature=t, reduction="none")
    ) == arguments + 30 * (4 + 4 + 8)


def test_only_the_gradients_asked_for_are_computed():
    seed_everything()
    q, k, t = torch.randn(40, 6), torch.randn(30, 6), torch.tensor(0.1)
    arguments = (q, torch.randint(3, (40,)), k, torch.randint(3, (30,)), t, "per_positive", True, -1, None, None)
    _, *saved = OP(*arguments)
    every = BACKWARD(torch.ones(40), *arguments, *saved, True, True, True)
    for needs in itertools.product((False, True), repeat=3):
        for grad, whole, needed in zip(BACKWARD(torch.ones(40), *arguments, *saved, *needs), every, needs, strict=True):
            assert grad.numel() == (whole.numel() if needed else 0)
            if needed:
                torch.testing.assert_close(grad, whole)


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


@pytest.mark.parametrize("separate", [False, True], ids=["self", "separate"])
def test_no_matrix_of_scores_in_memory(separate, native):
    """One M×N matrix of float32 would be 400 MB."""
    seed_everything()
    n = 10_000
    q, labels = torch.randn(n, 16, requires_grad=True), torch.randint(-1, 19, (n,))
    keys = (torch.randn(n, 16, requires_grad=True), torch.randint(-1, 19, (n,))) if separate else (None, None)
    contrastive_loss(q[:64], labels[:64]).backward()  # whatever a first call allocates
    assert peak_above_now(lambda: contrastive_loss(q, labels, *keys).backward()) < 40e6


def test_no_matrix_of_scores_in_memory_in_the_second_order(monkeypatch, native):
    """A dozen and more M×N matrices of float32, of 36 MB each, if it were not for the blocks."""
    seed_everything()
    monkeypatch.setattr(blocks, "BLOCK_SCORES", 1 << 18)
    q, labels = torch.randn(3000, 8, requires_grad=True), torch.randint(-1, 19, (3000,))

    def penalty(q, labels):
        (grad,) = torch.autograd.grad(contrastive_loss(q, labels), q, create_graph=True)
        grad.square().sum().backward()

    penalty(q[:64], labels[:64])
    assert peak_above_now(lambda: penalty(q, labels)) < 80e6


@pytest.mark.slow
def test_32768_pixels(native):
    """The size of the memory promise, exact where it can be told: losses of some rows, and the slope of the loss."""
    seed_everything()
    n = 32_768
    q, labels = torch.randn(n, 64, requires_grad=True), torch.randint(-1, 19, (n,))
    assert peak_above_now(lambda: contrastive_loss(q, labels, reduction="sum").backward()) < 300e6
    rows = torch.randperm(n)[:64]
    exact = q.detach().double()
    truth = reference.contrastive_loss(
        exact[rows], labels[rows], exact, labels, query_ids=rows, key_ids=torch.arange(n), reduction="none"
    )
    assert relative_error(contrastive_loss(q.detach(), labels, reduction="none")[rows], truth) < 1e-4
    step = F.normalize(q.grad.double(), dim=None) * 1e-3
    up, down = (contrastive_loss(exact + s * step, labels, reduction="sum") for s in (1, -1))
    assert abs((up - down) / 2e-3 / q.grad.double().norm() - 1) < 1e-4


def test_compiles_without_a_graph_break():
    seed_everything()
    q, k = torch.randn(20, 6, requires_grad=True), torch.randn(15, 6, requires_grad=True)
    labels, key_labels = torch.randint(3, (20,)), torch.randint(3, (15,))

    def loss(q, k):
        return contrastive_loss(q, labels, k, key_labels) + contrastive_loss(q, labels, mode="supcon")

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    expected = torch.autograd.grad(loss(q, k), (q, k))
    for a, b in zip(torch.autograd.grad(compiled(q, k), (q, k)), expected, strict=True):
        torch.testing.assert_close(a, b)


def test_forward_mode_is_refused():
    q = torch.randn(5, 2)
    with pytest.raises(NotImplementedError, match="forward-mode"):
        torch.func.jvp(lambda x: contrastive_loss(x, torch.zeros(5, dtype=torch.int64)), (q,), (q,))


Q, L = torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64)
K, KL = torch.zeros(5, 3), torch.zeros(5, dtype=torch.int64)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (([1.0], L), {}, TypeError, "queries: expected a tensor, got list"),
        ((Q[0], L), {}, ValueError, r"queries: expected shape \(M, D\), got shape \(3,\)"),
        ((Q.int(), L), {}, TypeError, "queries: expected torch.float32 or .*, got torch.int32"),
        ((Q, L[:3]), {}, ValueError, r"query_labels: expected shape \(4,\), got shape \(3,\)"),
        ((Q, L.int()), {}, TypeError, "query_labels: expected torch.int64, got torch.int32"),
        ((Q, L, K), {}, ValueError, "key_labels: expected a tensor when keys are given, got None"),
        ((Q, L, K[:, :2], KL), {}, ValueError, r"keys: expected shape \(N, 3\), got shape \(5, 2\)"),
        ((Q, L, K.double(), KL), {}, TypeError, "keys: expected torch.float32, got torch.float64"),
        ((Q, L, K.to("meta"), KL), {}, ValueError, "keys: expected device cpu, got meta"),
        ((Q, L, K, KL[:2]), {}, ValueError, r"key_labels: expected shape \(5,\), got shape \(2,\)"),
        ((Q, L, None, KL), {}, ValueError, "key_labels: expected None without keys, got a tensor"),
        ((Q, L), {"key_ids": L}, ValueError, "key_ids: expected None without keys, got a tensor"),
        ((Q, L), {"query_ids": L[:1]}, ValueError, r"query_ids: expected shape \(4,\), got shape \(1,\)"),
        ((Q, L, K, KL), {"query_ids": L}, ValueError, "query_ids, key_ids: expected both or neither .*, got one"),
        ((Q, L, K, KL), {"query_ids": L, "key_ids": L}, ValueError, r"key_ids: expected shape \(5,\), got shape"),
        ((Q, L), {"temperature": 0.0}, ValueError, "temperature: expected a finite number > 0, got 0.0"),
        ((Q, L), {"temperature": math.nan}, ValueError, "temperature: expected a finite number > 0, got nan"),
        ((Q, L), {"temperature": "1"}, TypeError, "temperature: expected a number, got str"),
        ((Q, L), {"temperature": torch.tensor(-1.0)}, ValueError, "temperature: expected a finite number > 0, got -1"),
        ((Q, L), {"temperature": torch.ones(1)}, ValueError, r"temperature: expected shape \(\), got shape \(1,\)"),
        ((Q, L), {"mode": "infonce"}, ValueError, "mode: expected one of 'per_positive', 'supcon', got 'infonce'"),
        ((Q, L), {"reduction": "max"}, ValueError, "reduction: expected one of 'mean', 'sum', 'none', got 'max'"),
        ((Q, L), {"ignore_index": 0.5}, TypeError, "ignore_index: expected an integer, got float"),
    ],
)
def test_wrong_arguments_are_named(arguments, options, error, message):
    with pytest.raises(error, match=f"contrastive_loss: {message}"):
        contrastive_loss(*arguments, **options)


def test_a_direct_call_of_the_kernel_is_checked_too(native):
    t = torch.tensor(0.1)
    rest = (t, "supcon", True, -1, None, None)
    good = (Q, L, K, KL, *rest)
    _, *saved = OP(*good)
    wrong = [
        ("queries: expected shape", (Q[0], L, None, None, *rest)),
        ("query_labels: expected shape", (Q, L[:2], None, None, *rest)),
        ("query_labels: expected Long", (Q, L.int(), None, None, *rest)),
        ("keys, key_labels: expected both or neither", (Q, L, K, None, *rest)),
        ("keys: expected shape", (Q, L, K[:, :2], KL, *rest)),
        ("keys: expected Float", (Q, L, K.double(), KL, *rest)),
        ("key_ids: expected shape", (Q, L, K, KL, t, "supcon", True, -1, L, L)),
        ("both or neither", (Q, L, K, KL, t, "supcon", True, -1, L, None)),
        ("temperature: expected Float", (Q, L, K, KL, t.double(), "supcon", True, -1, None, None)),
        ("temperature: expected a number > 0", (Q, L, K, KL, -t, "supcon", True, -1, None, None)),
        ("mode: expected", (Q, L, K, KL, t, "other", True, -1, None, None)),
    ]
    for message, arguments in wrong:
        with pytest.raises(RuntimeError, match=message):
            OP(*arguments)
        with pytest.raises(RuntimeError, match=message):
            BACKWARD(torch.ones(4), *arguments, *saved, True, True, True)
    for i, message in enumerate(("grad_loss", "boundary", "weight")):
        tensors = [torch.ones(4), *saved]
        tensors[i] = tensors[i][:3]
        with pytest.raises(RuntimeError, match=f"{message}: expected shape"):
            BACKWARD(tensors[0], *good, *tensors[1:], True, True, True)
