"""Comparators: every kernel is held to what plain PyTorch loses at the same dtype."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

# Relative error (2-norm) that is always granted: a rounding or two of the dtype, a few of the sums.
SLACK = {torch.float32: 4e-6, torch.float64: 1e-12, torch.bfloat16: 4e-3, torch.float16: 5e-4}


def relative_error(value: Tensor, truth: Tensor) -> float:
    """‖value − truth‖ / ‖truth‖ in float64, absolute where the truth is 0; NaN never passes for small."""
    value, truth = value.detach().double(), truth.detach().double()
    if value.shape != truth.shape:
        raise AssertionError(f"shape {tuple(value.shape)}, expected {tuple(truth.shape)}")
    if not truth.numel():
        return 0.0
    scale = float(truth.norm())
    return float((value - truth).norm()) / (1.0 if scale == 0 else scale)


def assert_as_accurate(
    ours: Sequence[Tensor | None],
    plain: Sequence[Tensor | None],
    truth: Sequence[Tensor | None],
    dtype: torch.dtype,
    terms: float | Sequence[float] = 0.0,
) -> None:
    """‖ours − truth‖ <= 2·‖plain − truth‖ + slack, tensor by tensor; truth is computed in float64.

    Where the result is what is left of terms that cancel, ``terms`` is their size (2-norm), of all tensors or one by
    one: a few roundings of theirs, in the float32 that low precision is summed in, are granted as well. Plain PyTorch
    may be lucky there by chance.
    """
    rounding = 4 * torch.finfo(torch.promote_types(dtype, torch.float32)).eps
    assert len(ours) == len(plain) == len(truth)
    sizes = [float(terms)] * len(truth) if isinstance(terms, int | float) else list(terms)
    for i, (a, b, t, size) in enumerate(zip(ours, plain, truth, sizes, strict=True)):
        assert (a is None) == (t is None), f"tensor {i}: one is None"
        if a is None or b is None or t is None:
            continue
        error, allowed = relative_error(a, t), 2 * relative_error(b, t) + SLACK[dtype]
        if size:
            allowed += rounding * size / (float(t.double().norm()) or 1.0)
        assert error <= allowed, f"tensor {i}: relative error {error:.3g}, allowed {allowed:.3g}"


def as_one_vector(*results: Sequence[Tensor | None]) -> list[list[Tensor]]:
    """Each result's tensors as one vector: one number may be what is left of terms that cancel."""
    return [[torch.cat([t.detach().double().flatten() for t in r if t is not None])] for r in results]


def cosine_terms(
    equalized: Sequence[Tensor], decoded: Sequence[Tensor], weights: Sequence[float], upstream: float
) -> list[float]:
    """Sizes of what cancels in a cosine consistency loss and in its gradients, where two features point one way.

    The loss is 1 − cos. The gradient of f is the unit vector of the other less cos·f/‖f‖, over M·‖f‖ for M pixels.
    """

    def of(features: Sequence[Tensor]) -> list[float]:
        lengths = [f.double().norm(dim=1) for f in features]
        sizes = [float(n.reciprocal().norm()) / max(n.numel(), 1) for n in lengths]
        return [abs(w * upstream) * size for w, size in zip(weights, sizes, strict=True)]

    return [sum(weights), *of(equalized), *of(decoded)]


KINKED = ("relu", "leaky_relu")


def off_the_kink(y: Tensor, dtype: torch.dtype) -> Tensor:
    """Where ``y``, which a kinked activation is applied to, is 0 or far from it, whatever the rounding of its sums.

    One value that rounding moves across the kink outweighs all rounding of a gradient: hand none back elsewhere.
    """
    eps = torch.finfo(torch.promote_types(dtype, torch.float32)).eps
    return (y == 0) | (y.abs() > 1000 * eps * y.detach().double().square().mean().sqrt())


def assert_gradients_of_both_orders(function: Callable[..., object], inputs: Sequence[Tensor]) -> None:
    """gradcheck and gradgradcheck, by steps so short that hardly ever one crosses a kink or changes a match.

    At the default step of 1e-6 one does in a hundred runs of all tests; at 1e-8 float64 still leaves eight digits.
    """
    options = {"eps": 1e-8, "fast_mode": True}
    assert torch.autograd.gradcheck(function, tuple(inputs), **options)
    assert torch.autograd.gradgradcheck(function, tuple(inputs), **options)


def saved_bytes(run: object) -> int:
    """Bytes that calling ``run`` keeps for backward, each storage counted once."""
    seen: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        seen[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        run()  # type: ignore[operator]
    return sum(seen.values())
