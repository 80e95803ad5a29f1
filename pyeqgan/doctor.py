"""Run every operation on every backend that is here, on a tiny problem, and compare it with its oracle.

The oracle runs in float64; a backend passes when its float32 results and gradients are within 1e-4 of it (relative,
2-norm).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor

from pyeqgan import backends, functional, reference

TOLERANCE = 1e-4


@dataclass(frozen=True)
class Case:
    """One operation on one tiny problem: ``run`` takes the differentiable tensors and a module with the operation."""

    name: str
    tensors: Sequence[Tensor]
    run: Callable[..., Tensor]


@dataclass(frozen=True)
class Verdict:
    """How one operation did on one backend: the largest relative error of its result and gradients, or what broke."""

    operation: str
    backend: str
    device: str
    error: float
    problem: str = ""

    @property
    def passed(self) -> bool:
        """Whether it ran and its error is small."""
        return not self.problem and self.error <= TOLERANCE


def cases() -> list[Case]:
    """A tiny problem for every operation, odd in every size."""
    draw = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64, generator=draw)

    positions = torch.stack([torch.randperm(35, generator=draw)[:13] for _ in range(2)])
    matches = torch.randint(35, (2, 3, 13), generator=draw)
    labels = torch.randint(-1, 4, (37,), generator=draw)
    map_labels = torch.randint(-1, 3, (2, 6, 10), generator=draw)
    share = normal(2, 4).softmax(1)
    parameters = [normal(*s) / 4 for s in ((5, 7, 1, 1), (5,), (4, 5, 1, 1), (4,), (5, 4, 1, 1), (5,), (5, 10, 1, 1))]
    norm = {"norm": "batch", "training": True}
    return [
        Case("bilateral_propagation", (normal(2, 5, 7, 3), normal(2, 5)), lambda m, *t: m.bilateral_propagation(*t)),
        Case(
            "local_fusion",
            (normal(2, 5, 5, 7), normal(2, 3, 5, 5, 7), share),
            lambda m, *t: m.local_fusion(*t, positions.to(t[0].device))[0],
        ),
        Case(
            "lifted_fusion",
            (normal(2, 3, 10, 14), normal(2, 3, 3, 10, 14), share),
            lambda m, *t: m.lifted_fusion(*t, positions.to(t[0].device), matches.to(t[0].device), (5, 7)),
        ),
        Case(
            "skip_decoder_block",
            (normal(2, 3, 5, 4), normal(2, 4, 5, 4), normal(5, 7, 3, 3), normal(5), normal(5), normal(5)),
            lambda m, x, s, w, b, g, h: m.skip_decoder_block(x, s, w, b, **norm, norm_weight=g, norm_bias=h),
        ),
        Case(
            "activated_conv2d",
            (normal(2, 3, 5, 7), normal(4, 3, 3, 3), normal(4)),
            lambda m, *t: m.activated_conv2d(*t),
        ),
        *(
            Case(
                "contrastive_loss",
                (normal(37, 6),),
                lambda m, q, mode=mode: m.contrastive_loss(q, labels.to(q.device), mode=mode),
            )
            for mode in ("per_positive", "supcon")
        ),
        Case(
            "equalization_consistency_loss",
            (normal(2, 5, 3, 7), normal(2, 5, 3, 7)),
            lambda m, e, d: m.equalization_consistency_loss([e], [d]),
        ),
        Case(
            "equalization_fusion",
            (normal(2, 3, 5, 7), normal(2, 4, 5, 7), *parameters),
            lambda m, *t: m.equalization_fusion(*t, norm="instance"),
        ),
        Case(
            "multiscale_contrastive_loss",
            (normal(2, 6, 3, 5), normal(2, 6, 6, 10)),
            lambda m, *t: m.multiscale_contrastive_loss(t, map_labels.to(t[0].device), cross_scale=[(0, 1)]),
        ),
    ]


def examine() -> Iterator[Verdict]:
    """Every operation on every backend here, one verdict at a time."""
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    for case in cases():
        for device in devices:
            for backend in _backends(case.name, device):
                yield _examine(case, backend, device)


def _backends(name: str, device: str) -> list[str]:
    if name in backends.COMPOSED:
        return ["composed"]
    candidates = ("native",) if device == "cpu" else ("cuda", "triton")
    return ["reference", *(b for b in candidates if backends.available(b, name))]


def _examine(case: Case, backend: str, device: str) -> Verdict:
    chosen = nullcontext() if backend == "composed" else backends.force(backend, case.name)
    try:
        with chosen:
            ours = _results(case, functional, device, torch.float32)
        truth = _results(case, reference, "cpu", torch.float64)
        error = _error(ours, truth)
    except Exception as problem:
        return Verdict(case.name, backend, device, float("nan"), f"{type(problem).__name__}: {problem}")
    return Verdict(case.name, backend, device, error)


def _results(case: Case, module: ModuleType, device: str, dtype: torch.dtype) -> list[Tensor]:
    """The result and all gradients, for a fixed upstream gradient."""
    tensors = [t.to(device, dtype).requires_grad_() for t in case.tensors]
    y = case.run(module, *tensors)
    upstream = torch.randn(y.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return [y.detach(), *torch.autograd.grad(y, tensors, upstream.to(y))]


def _error(ours: list[Tensor], truth: list[Tensor]) -> float:
    """The largest relative error; a gradient that is zero by nature is measured against the largest one."""
    floor = 1e-3 * max(float(t.norm()) for t in truth)
    return max(
        float((a.cpu().double() - t).norm() / t.norm().clamp_min(floor)) for a, t in zip(ours, truth, strict=True)
    )


def main() -> int:
    """Print a line for every verdict; returns 0 if all passed, else 1."""
    verdicts = []
    for verdict in examine():
        verdicts.append(verdict)
        outcome = verdict.problem or f"relative error {verdict.error:.1e}"
        mark = "ok    " if verdict.passed else "FAILED"
        print(f"{mark}  {verdict.operation:30} {verdict.device:5} {verdict.backend:10} {outcome}", flush=True)
    failed = sum(not v.passed for v in verdicts)
    missing = [] if backends.native_module() else ["the compiled module is missing: only the references were examined"]
    print(*missing, f"{len(verdicts) - failed} passed, {failed} failed", sep="\n")
    return 1 if failed or missing else 0
