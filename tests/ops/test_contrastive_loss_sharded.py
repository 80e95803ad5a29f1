"""contrastive_loss with ``group=``: two or three processes must find what one finds, by either way of the keys."""

from __future__ import annotations

import itertools
import os

import pytest
import ranks
import torch
import torch.distributed as dist
from sampling import seed_everything

from pyeqgan.functional import contrastive_loss
from pyeqgan.ops._sharded import Keys, too_many_to_gather

SIZES = ((23, 40), (23, 0, 40))  # rows of the ranks, which need not hold equally many, or any
LIMITS = {"gather": str(1 << 30), "ring": "0"}
CASES = [
    {"mode": mode, "reduction": reduction, "separate": separate, "ids": ids}
    for mode, reduction, separate, ids in (
        ("per_positive", "mean", False, False),
        ("per_positive", "mean", True, True),
        ("supcon", "sum", False, True),
        ("supcon", "mean", True, False),
    )
]


def make_rows():
    total = sum(SIZES[0])
    names = ("queries", "keys")
    rows = {name: torch.randn(total, 5, dtype=torch.float64) for name in names}
    rows |= {f"{name}_labels": torch.randint(-1, 3, (total,)) for name in names}
    rows |= {f"{name}_ids": torch.randint(20, (total,)) for name in names}
    return rows


def losses_and_gradients(rows, case, group):
    """The loss, its gradients without and with a graph of their own, and the gradients of their squares."""
    leaves = [rows["queries"].clone().requires_grad_(), torch.tensor(0.2, dtype=torch.float64, requires_grad=True)]
    options = {"mode": case["mode"], "reduction": case["reduction"], "group": group, "temperature": leaves[1]}
    if case["ids"]:
        options["query_ids"] = rows["queries_ids"]
    if case["separate"]:
        leaves.append(rows["keys"].clone().requires_grad_())
        options |= {"keys": leaves[2], "key_labels": rows["keys_labels"]}
        if case["ids"]:
            options["key_ids"] = rows["keys_ids"]
    loss = contrastive_loss(leaves[0], rows["queries_labels"], **options)
    plain = torch.autograd.grad(loss, leaves, retain_graph=True)
    first = torch.autograd.grad(loss, leaves, create_graph=True)
    # Of the features alone: each rank holds a share of the temperature's gradient, and a square of shares is no share.
    second = torch.autograd.grad(sum(g.square().sum() for g in (first[0], *first[2:])), leaves)
    return [x.detach() for x in (loss, *plain, *first, *second)]


def work(rank, rows):
    found = {}
    for sizes in SIZES:
        group = dist.new_group(range(len(sizes)))
        if rank >= len(sizes):
            continue
        own = {name: value.split(sizes)[rank] for name, value in rows.items()}
        for way, limit in LIMITS.items():
            os.environ["PYEQGAN_GATHER_LIMIT"] = limit
            found[sizes, way] = [losses_and_gradients(own, case, group) for case in CASES]
    return found


def test_several_processes_find_what_one_finds(tmp_path):
    seed_everything()
    rows = make_rows()
    found = ranks.run(work, max(map(len, SIZES)), tmp_path, rows)
    for number, case in enumerate(CASES):
        expected = losses_and_gradients(rows, case, None)
        count = len(expected) // 3  # the gradients of one kind
        for sizes, way in itertools.product(SIZES, LIMITS):
            shares = [rank[sizes, way][number] for rank in found[: len(sizes)]]
            for i, value in enumerate(expected):
                parts = [share[i] for share in shares]
                if i == 0:  # the loss of all ranks, on each
                    joined, value = torch.stack(parts), value.expand(len(parts))
                elif i in (2, 2 + count, 2 + 2 * count):  # the temperature's gradient
                    joined = sum(parts)
                else:
                    joined = torch.cat(parts)
                about = f"{case} {sizes} {way} tensor {i}"
                torch.testing.assert_close(joined, value, msg=lambda m, about=about: f"{about}: {m}")


def test_a_limit_that_is_no_number_is_refused(monkeypatch):
    monkeypatch.setenv("PYEQGAN_GATHER_LIMIT", "1 GiB")
    keys = Keys(torch.ones(2, 3), torch.zeros(2, dtype=torch.int64), None, [2])
    with pytest.raises(ValueError, match="PYEQGAN_GATHER_LIMIT: expected a number of bytes, got '1 GiB'"):
        too_many_to_gather(keys)
