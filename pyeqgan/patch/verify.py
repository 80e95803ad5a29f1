"""The proof of a swap: outputs, gradients and buffers of two runs on the same inputs and random numbers."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

# Relative, by the 2-norm: what the roundings of a deep network may add up to; another function is far off.
TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-3}
COARSE = 5e-2  # bfloat16 and float16


class VerificationError(Exception):
    """The accelerated model computes something else; it has been restored."""


def observe(model: nn.Module, inputs: Sequence[Any]) -> dict[str, Tensor]:
    """What a forward and a backward pass yield, by name; the model, its gradients and all random states stay.

    The backward pass is that of the outputs' sum with random weights, to the parameters and to the inputs.
    """
    with _restored(model):
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)
        inputs = pytree.tree_map_only(Tensor, _leaf, tuple(inputs))
        outputs = [t for t in pytree.tree_leaves(model(*inputs)) if isinstance(t, Tensor)]
        seen = {f"output {i}": t.detach().clone() for i, t in enumerate(outputs)}
        generator = torch.Generator().manual_seed(1)
        pairs = [(t, torch.randn(t.shape, generator=generator).to(t)) for t in outputs if t.requires_grad]
        leaves = {f"input {i}": t for i, t in enumerate(pytree.tree_leaves(inputs)) if isinstance(t, Tensor)}
        leaves.update(model.named_parameters())
        leaves = {name: t for name, t in leaves.items() if t.requires_grad}
        if pairs and leaves:
            ends, weights = zip(*pairs, strict=True)
            grads = torch.autograd.grad(ends, list(leaves.values()), weights, allow_unused=True)
            seen.update({f"gradient of {n}": g for n, g in zip(leaves, grads, strict=True) if g is not None})
        seen.update({f"buffer {name}": t.detach().clone() for name, t in model.named_buffers()})
    return seen


def _leaf(t: Tensor) -> Tensor:
    return t.detach().clone().requires_grad_(t.is_floating_point())


def compare(before: dict[str, Tensor], after: dict[str, Tensor]) -> float:
    """The largest relative difference of two observations.

    A gradient that is zero by nature (of a bias before a norm) is measured against a thousandth of the largest one.

    Raises:
        VerificationError: one is larger than rounding explains, or another set of tensors came out.
    """
    if before.keys() != after.keys():
        different = ", ".join(sorted(before.keys() ^ after.keys()))
        raise VerificationError(f"accelerate: verify: expected the same tensors, got a difference in {different}")
    gradients = [float(t.norm()) for name, t in before.items() if name.startswith("gradient")]
    worst = 0.0
    for name, expected in before.items():
        got = after[name]
        floor = 1e-3 * max(gradients) if name.startswith("gradient") else 0.0
        error = _difference(expected, got, floor)
        allowed = TOLERANCE.get(expected.dtype, COARSE)
        if not error <= allowed:
            raise VerificationError(
                f"accelerate: verify: {name}: expected a relative difference of at most {allowed:g}, got {error:.2g}; "
                "the model has been restored"
            )
        worst = max(worst, error)
    return worst


def _difference(expected: Tensor, got: Tensor, floor: float) -> float:
    if got.shape != expected.shape or got.dtype != expected.dtype:
        return float("inf")
    if not (expected.is_floating_point() or expected.is_complex()):
        return 0.0 if torch.equal(expected, got) else float("inf")
    same = (expected == got) | (expected.isnan() & got.isnan())
    if bool(same.all()):
        return 0.0
    wide = torch.complex128 if expected.is_complex() else torch.float64
    off, scale = float((got.to(wide) - expected.to(wide)).norm()), float(expected.to(wide).norm())
    return off / max(scale, floor) if max(scale, floor) > 0 else float("inf")


@contextmanager
def _restored(model: nn.Module) -> Iterator[None]:
    """Parameters, buffers, gradients, attributes and random states are afterwards what they were."""
    attributes = [(m, dict(vars(m))) for m in model.modules()]  # of them the weight that spectral norm's hook sets
    tensors = [(t, t.detach().clone()) for t in (*model.parameters(), *model.buffers())]
    gradients = [(p, p.grad) for p in model.parameters()]
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    try:
        yield
    finally:
        for module, values in attributes:
            vars(module).clear()
            vars(module).update(values)
        with torch.no_grad():
            for tensor, value in tensors:
                tensor.copy_(value)
        for parameter, gradient in gradients:
            parameter.grad = gradient
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        if devices:
            torch.cuda.set_rng_state_all(devices)
