"""contrastive_loss with ``group=``: two processes must find what one finds."""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from sampling import seed_everything

from pyeqgan.functional import contrastive_loss

SIZES = (23, 40)  # rows of either rank; ranks need not hold equally many
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
    total = sum(SIZES)
    names = ("queries", "keys")
    rows = {name: torch.randn(total, 5, dtype=torch.float64) for name in names}
    rows |= {f"{name}_labels": torch.randint(-1, 3, (total,)) for name in names}
    rows |= {f"{name}_ids": torch.randint(20, (total,)) for name in names}
    return rows


def losses_and_gradients(rows, case, group):
    """The loss, its gradients, and the gradients of their squares."""
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
    first = torch.autograd.grad(loss, leaves, create_graph=True)
    # Of the features alone: each rank holds a share of the temperature's gradient, and a square of shares is no share.
    second = torch.autograd.grad(sum(g.square().sum() for g in (first[0], *first[2:])), leaves)
    return [x.detach() for x in (loss, *first, *second)]


def work(rank, address, rows, results):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=len(SIZES))
    try:
        own = {name: value.split(SIZES)[rank] for name, value in rows.items()}
        results.put((rank, [[x.numpy() for x in losses_and_gradients(own, c, dist.group.WORLD)] for c in CASES]))
    finally:
        dist.destroy_process_group()


def test_two_processes_find_what_one_finds(tmp_path):
    seed_everything()
    rows = make_rows()
    results = mp.get_context("spawn").SimpleQueue()
    context = mp.spawn(work, (f"file://{tmp_path / 'store'}", rows, results), nprocs=len(SIZES), join=False)
    ranks = dict(results.get() for _ in SIZES)
    while not context.join():
        continue
    for number, case in enumerate(CASES):
        expected = losses_and_gradients(rows, case, None)
        shares = [[torch.as_tensor(x) for x in ranks[r][number]] for r in range(len(SIZES))]
        count = len(expected) // 2  # the gradients of one order
        for i, value in enumerate(expected):
            parts = [s[i] for s in shares]
            if i == 0:  # the loss of all ranks, on each
                for part in parts:
                    torch.testing.assert_close(part, value, msg=lambda m, case=case: f"{case} loss: {m}")
                continue
            temperature = i in (2, 2 + count)
            joined = sum(parts) if temperature else torch.cat(parts)
            torch.testing.assert_close(joined, value, msg=lambda m, case=case, i=i: f"{case} tensor {i}: {m}")
