"""Run every operation on every backend that is here, on a tiny problem, and compare it with its oracle.

The oracle runs in float64; a backend passes when its float32 results and gradients are within 1e-4 of it (relative,
2-norm). On a GPU each is timed, too, at a size of the models, and the verdicts are kept: the operations run there by
the fastest backend that passed, from the next process on (see `router`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor

from pyeqgan import backends, functional, reference, verdicts
from pyeqgan.verdicts import Verdict

REPETITIONS = 20


@dataclass(frozen=True)
class Case:
    """One operation on one tiny problem: ``run`` takes the differentiable tensors and a module with the operation."""

    name: str
    tensors: Sequence[Tensor]
    run: Callable[..., Tensor]


@dataclass(frozen=True)
class Sizes:
    """Of a problem: batch, references, channels in and out, height and width, rows of the contrastive loss."""

    batch: int
    references: int
    channels: int
    outputs: int
    height: int
    width: int
    rows: int


TINY = Sizes(batch=2, references=3, channels=3, outputs=5, height=5, width=7, rows=37)  # odd in every way
REAL = Sizes(batch=8, references=2, channels=128, outputs=128, height=32, width=32, rows=8192)  # of EqGAN at 128²


def cases(s: Sizes = TINY) -> list[Case]:
    """A problem for every operation."""
    draw = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64, generator=draw)

    def image(channels: int = s.channels, scale: int = 1) -> Tensor:
        return normal(s.batch, channels, scale * s.height, scale * s.width)

    def references(scale: int = 1) -> Tensor:
        return normal(s.batch, s.references, s.channels, scale * s.height, scale * s.width)

    pixels = s.height * s.width
    positions = torch.stack([torch.randperm(pixels, generator=draw)[: pixels // 2] for _ in range(s.batch)])
    matches = torch.randint(pixels, (s.batch, s.references, pixels // 2), generator=draw)
    labels = torch.randint(-1, 4, (s.rows,), generator=draw)
    map_labels = torch.randint(-1, 3, (s.batch, 2 * s.height, 2 * s.width), generator=draw)
    share = normal(s.batch, s.references + 1).softmax(1)
    hidden = max(s.outputs // 16, 4)
    shapes = ((s.outputs, 2 * s.channels + 1), (s.outputs,), (hidden, s.outputs), (hidden,), (s.outputs, hidden))
    shapes += ((s.outputs,), (s.outputs, 2 * s.outputs))  # type: ignore[assignment]
    parameters = [normal(*shape, *([1, 1] if len(shape) == 2 else [])) / s.outputs**0.5 for shape in shapes]
    kernel = normal(s.outputs, s.channels, 3, 3) / s.channels**0.5
    wide_kernel = normal(s.outputs, 2 * s.channels + 1, 3, 3) / s.channels**0.5
    norm = {"norm": "batch", "training": True}
    return [
        Case(
            "bilateral_propagation", (image(), normal(s.batch, s.channels)), lambda m, *t: m.bilateral_propagation(*t)
        ),
        Case(
            "local_fusion",
            (image(), references(), share),
            lambda m, *t: m.local_fusion(*t, positions.to(t[0].device))[0],
        ),
        Case(
            "lifted_fusion",
            (image(scale=2), references(scale=2), share),
            lambda m, *t: m.lifted_fusion(*t, positions.to(t[0].device), matches.to(t[0].device), (s.height, s.width)),
        ),
        Case(
            "skip_decoder_block",
            (image(), image(s.channels + 1), wide_kernel, *(normal(s.outputs) for _ in range(3))),
            lambda m, x, s, w, b, g, h: m.skip_decoder_block(x, s, w, b, **norm, norm_weight=g, norm_bias=h),
        ),
        *(
            Case(
                "modulated_norm",
                (image(), image(), image()),
                lambda m, *t, options=options: m.modulated_norm(*t, **options),
            )
            for options in ({"norm": "instance"}, norm)
        ),
        Case("activated_conv2d", (image(), kernel, normal(s.outputs)), lambda m, *t: m.activated_conv2d(*t)),
        Case(
            "layout_conv2d",
            (kernel, normal(s.outputs)),
            lambda m, *t: m.layout_conv2d(map_labels.to(t[0].device), *t, padding=1, activation="leaky_relu"),
        ),
        Case(
            "similarity_loss",
            (image(scale=2).softmax(1),),
            lambda m, p: m.similarity_loss(p, map_labels.to(p.device)),
        ),
        *(
            Case(
                "contrastive_loss",
                (normal(s.rows, 2 * s.channels),),
                lambda m, q, mode=mode: m.contrastive_loss(q, labels.to(q.device), mode=mode),
            )
            for mode in ("per_positive", "supcon")
        ),
        Case(
            "equalization_consistency_loss",
            (image(), image()),
            lambda m, e, d: m.equalization_consistency_loss([e], [d]),
        ),
        Case(
            "equalization_fusion",
            (image(), image(s.channels + 1), *parameters),
            lambda m, *t: m.equalization_fusion(*t, norm="instance"),
        ),
        Case(
            "multiscale_contrastive_loss",
            (image(), image(scale=2)),
            lambda m, *t: m.multiscale_contrastive_loss(
                t, map_labels.to(t[0].device), cross_scale=[(0, 1)], max_pixels=64
            ),
        ),
    ]


def examine() -> Iterator[Verdict]:
    """Every operation on every backend here, one verdict at a time."""
    real: dict[str, list[Case | None]] = {"cpu": [None] * len(cases())}
    if torch.cuda.is_available():
        real["cuda"] = [*cases(REAL)]
    for index, case in enumerate(cases()):
        for device, timed in real.items():
            for backend in _backends(case.name, device):
                yield _examine(case, timed[index], backend, device)


def _backends(name: str, device: str) -> list[str]:
    if name in backends.COMPOSED:
        return ["composed"]
    candidates = ("native",) if device == "cpu" else ("cuda", "triton")
    return ["reference", *(b for b in candidates if backends.available(b, name))]


def _examine(case: Case, timed: Case | None, backend: str, device: str) -> Verdict:
    chosen = nullcontext() if backend == "composed" else backends.force(backend, case.name)
    try:
        with chosen:
            ours = _results(case, functional, device, torch.float32)
            milliseconds = None if timed is None else _milliseconds(timed, device)
        truth = _results(case, reference, "cpu", torch.float64)
        error = _error(ours, truth)
    except Exception as problem:
        return Verdict(case.name, backend, device, float("nan"), f"{type(problem).__name__}: {problem}")
    return Verdict(case.name, backend, device, error, milliseconds=milliseconds)


def _milliseconds(case: Case, device: str) -> float:
    """The median time of forward and backward on a GPU."""
    tensors = [t.to(device, torch.float32).requires_grad_() for t in case.tensors]
    times: list[float] = []
    for _ in range(REPETITIONS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        y = case.run(functional, *tensors)
        torch.autograd.grad(y.sum(), tensors)
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return sorted(times)[REPETITIONS // 2]


def _results(case: Case, module: ModuleType, device: str, dtype: torch.dtype) -> list[Tensor]:
    """The result and all gradients, for a fixed upstream gradient."""
    tensors = [t.to(device, dtype).requires_grad_() for t in case.tensors]
    y = case.run(module, *tensors)
    upstream = torch.randn(y.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return [y.detach(), *torch.autograd.grad(y, tensors, upstream.to(y))]


def _error(ours: list[Tensor], truth: list[Tensor]) -> float:
    """The largest relative error; a gradient that is zero by nature is measured against the largest one."""
    floor = 1e-2 * max(float(t.norm()) for t in truth)
    return max(
        float((a.cpu().double() - t).norm() / t.norm().clamp_min(floor)) for a, t in zip(ours, truth, strict=True)
    )


def main() -> int:
    """Print a line for every verdict, and keep those of a GPU; returns 0 if all passed, else 1."""
    found = []
    for verdict in examine():
        found.append(verdict)
        outcome = verdict.problem or f"relative error {verdict.error:.1e}"
        time = "" if verdict.milliseconds is None else f"  {verdict.milliseconds:.3g} ms"
        mark = "ok    " if verdict.passed else "FAILED"
        print(f"{mark}  {verdict.operation:30} {verdict.device:5} {verdict.backend:10} {outcome}{time}", flush=True)
    if torch.cuda.is_available():
        print(f"kept for the next process: {verdicts.keep(backends.current_gpu(), _one_each(found))}")
    failed = sum(not v.passed for v in found)
    missing = [] if backends.native_module() else ["the compiled module is missing: only the references were examined"]
    print(*missing, f"{len(found) - failed} passed, {failed} failed", sep="\n")
    return 1 if failed or missing else 0


def _one_each(found: Sequence[Verdict]) -> list[Verdict]:
    """The worst verdict of every operation on every backend of the GPU: it passed if all of its problems did."""
    worst: dict[tuple[str, str], Verdict] = {}
    for verdict in found:
        key = (verdict.operation, verdict.backend)
        if verdict.device == "cuda" and (key not in worst or worst[key].passed):
            slower = max((v.milliseconds or 0.0 for v in (verdict, worst.get(key, verdict))), default=0.0)
            worst[key] = dataclasses.replace(verdict, milliseconds=slower)
    return list(worst.values())
