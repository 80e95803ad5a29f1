"""What a running backward pass asks of an operation."""

from __future__ import annotations

from typing import Any

import torch


def asked_for(ctx: Any) -> list[bool]:
    """Which gradients this pass will use: fewer than ``ctx.needs_input_grad``, which is fixed in the forward pass.

    ``torch.autograd.grad(y, x)`` runs the part of the graph that leads to x, and a gradient penalty does so through
    layers whose weights want gradients too, though not from this pass.
    """
    node = torch._C._current_autograd_node()
    needs = list(ctx.needs_input_grad)
    if node is None:
        return needs
    for i, (producer, _) in enumerate(node.next_functions[: len(needs)]):
        if needs[i] and producer is not None:
            try:
                needs[i] = torch._C._will_engine_execute_node(producer)
            except RuntimeError:  # a leaf in autograd.grad: torch does not tell whether it is among the inputs
                continue
    return needs
