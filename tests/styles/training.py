"""What a swap must leave as it was: a few training steps of two copies, one of them accelerated."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from pyeqgan.patch import Report, accelerate

Loss = Callable[[nn.Module, Tensor], Tensor]


def mean_square(model: nn.Module, x: Tensor) -> Tensor:
    return model(x).square().mean()


def gradient_penalty(model: nn.Module, x: Tensor) -> Tensor:
    """A logit and the squared norm of its gradient."""
    x = x.clone().requires_grad_()
    y = model(x)
    logit = y.square().sum() if y.dim() else y
    (gradient,) = torch.autograd.grad(logit, x, create_graph=True)
    return logit + gradient.square().sum()


def assert_trains_alike(
    model: nn.Module, x: Tensor, *, loss: Loss = mean_square, steps: int = 3, swaps: int | None = None
) -> Report:
    """In float64: the same losses, gradients, buffers and parameters after every step, and in evaluation.

    The optimizer of the accelerated model is made before the swap.
    """
    original = model.double()
    twin = copy.deepcopy(original)
    keys, parameters = list(twin.state_dict()), dict(twin.named_parameters())
    ours, theirs = (torch.optim.Adam(m.parameters(), 1e-2) for m in (twin, original))
    report = accelerate(twin)
    if swaps is not None:
        assert len(report.swapped) == swaps, str(report)
    assert list(twin.state_dict()) == keys
    assert all(p is parameters[name] for name, p in twin.named_parameters())
    for _ in range(steps):
        values = []
        for m, optimizer in ((twin, ours), (original, theirs)):
            optimizer.zero_grad()
            value = loss(m, x.double())
            value.backward()
            values.append(value)
        torch.testing.assert_close(*values, rtol=1e-8, atol=1e-9)
        scale = max(float(p.grad.norm()) for p in original.parameters() if p.grad is not None)
        for (name, a), b in zip(twin.named_parameters(), original.parameters(), strict=True):
            assert (a.grad is None) == (b.grad is None), name
            if a.grad is not None:
                torch.testing.assert_close(
                    a.grad, b.grad, rtol=1e-7, atol=1e-9 * scale, msg=lambda m, n=name: f"{n}: {m}"
                )
                a.grad.copy_(b.grad)  # Adam makes steps of gradients that are zero by nature
        ours.step()
        theirs.step()
        assert_same_state(twin, original)
    twin.eval(), original.eval()
    with torch.no_grad():
        torch.testing.assert_close(twin(x.double()), original(x.double()), rtol=1e-7, atol=1e-9)
    assert_same_state(twin, original)
    report.undo()
    assert [type(m) for m in twin.modules()] == [type(m) for m in original.modules()]
    assert all(vars(a).keys() == vars(b).keys() for a, b in zip(twin.modules(), original.modules(), strict=True))
    return report


def assert_same_state(a: nn.Module, b: nn.Module) -> None:
    for (name, x), y in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-7, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")
