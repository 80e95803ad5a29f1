"""Every kernel where it runs: the CUDA C++ and Triton ones on a GPU, the compiled ones on the CPU by the same tests.

The GPU's tests carry the marker `gpu` and are skipped where there is none.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

import plain
import pytest
import torch
from numerics import assert_as_accurate
from torch import Tensor

from pyeqgan import backends, doctor, functional, reference
from pyeqgan.doctor import Case, Sizes

NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
GPU = [pytest.param("cuda", backend, marks=[pytest.mark.gpu, NO_GPU]) for backend in ("cuda", "triton")]
PLACES = [("cpu", "native"), *GPU]
ODD = doctor.TINY
OFF_TILES = Sizes(batch=1, references=2, channels=33, outputs=17, height=33, width=37, rows=301)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def cases(sizes: Sizes) -> list[Case]:
    return [case for case in doctor.cases(sizes) if case.name not in backends.COMPOSED]


NAMES = [f"{i}-{case.name}" for i, case in enumerate(cases(ODD))]


@contextlib.contextmanager
def forced(backend: str, name: str):
    if not backends.available(backend, name):
        pytest.skip(f"{name} has no {backend} kernel here")
    with backends.force(backend, name):
        yield


def inputs(case: Case, device: str, dtype: torch.dtype, channels_last: bool = False) -> list[Tensor]:
    tensors = [t.to(device, dtype) for t in case.tensors]
    if channels_last:
        tensors = [t.to(memory_format=torch.channels_last) if t.dim() == 4 else t for t in tensors]
    return [t.requires_grad_() for t in tensors]


def results(case: Case, module: object, tensors: Sequence[Tensor], upstream: Tensor | None = None) -> list[Tensor]:
    y = case.run(module, *tensors)
    grad = torch.ones_like(y) if upstream is None else upstream.to(y)
    return [y.detach(), *torch.autograd.grad(y, tensors, grad, allow_unused=True, materialize_grads=True)]


@pytest.mark.parametrize(("device", "backend"), PLACES)
@pytest.mark.parametrize("sizes", [ODD, OFF_TILES], ids=["odd", "off-tiles"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("index", range(len(NAMES)), ids=NAMES)
def test_matches_the_truth_as_well_as_plain_pytorch(device, backend, sizes, dtype, index):
    case = cases(sizes)[index]
    for channels_last in (False, True):
        tensors = inputs(case, device, dtype, channels_last)
        truth_tensors = [t.detach().cpu().double().requires_grad_() for t in tensors]
        shape = case.run(reference, *truth_tensors).shape
        upstream = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        with forced(backend, case.name):
            ours = [t.cpu() for t in results(case, functional, tensors, upstream)]
        rounded = [t.cpu() for t in results(case, plain, tensors, upstream)]
        truth = results(case, reference, truth_tensors, upstream)
        # All as one vector, each at its own scale: of a few numbers alone 16 bits tell little. One that is zero by
        # nature has no scale of its own.
        floor = 1e-3 * max(float(t.norm()) for t in truth)
        scales = [t.norm().clamp_min(floor) for t in truth]
        vectors = [
            torch.cat([(t.double() / s).flatten() for t, s in zip(r, scales, strict=True)])
            for r in (ours, rounded, truth)
        ]
        assert_as_accurate(*([v] for v in vectors), dtype)


@pytest.mark.parametrize(("device", "backend"), PLACES)
@pytest.mark.parametrize("index", range(len(NAMES)), ids=NAMES)
def test_repeats_itself_bit_for_bit(device, backend, index):
    case = cases(OFF_TILES)[index]
    with forced(backend, case.name):
        tensors = inputs(case, device, torch.float32)
        first, *others = [results(case, functional, tensors) for _ in range(4)]
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize(("device", "backend"), GPU)
@pytest.mark.parametrize("index", range(len(NAMES)), ids=NAMES)
def test_runs_on_the_current_stream(device, backend, index):
    """What is enqueued before it on another stream is seen, without a synchronisation."""
    case = cases(OFF_TILES)[index]
    with forced(backend, case.name):
        tensors = inputs(case, device, torch.float32)
        expected = results(case, functional, tensors)
        zeros = [torch.zeros_like(t) for t in tensors]
        torch.cuda.synchronize()
        with torch.cuda.stream(torch.cuda.Stream()):
            torch.cuda._sleep(50_000_000)
            for zero, tensor in zip(zeros, tensors, strict=True):
                zero.copy_(tensor.detach())
            found = results(case, functional, [z.requires_grad_() for z in zeros])
        torch.cuda.synchronize()
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize(("device", "backend"), GPU)
@pytest.mark.parametrize("index", range(len(NAMES)), ids=NAMES)
def test_a_captured_graph_replays_it_on_other_values(device, backend, index):
    case = cases(ODD)[index]
    with forced(backend, case.name):
        tensors = inputs(case, device, torch.float32)
        replay, captured = _captured(lambda: results(case, functional, tensors))
        with torch.no_grad():
            for tensor in tensors:
                tensor.mul_(0.5)
        replay()
        torch.cuda.synchronize()
        expected = results(case, functional, tensors)
    assert all(torch.equal(a, b) for a, b in zip(captured, expected, strict=True))


def _captured(run: Callable[[], list[Tensor]]) -> tuple[Callable[[], None], list[Tensor]]:
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = run()
    return graph.replay, outputs


FAR = ("bilateral_propagation", "local_fusion", "lifted_fusion", "modulated_norm", "similarity_loss")


@pytest.mark.parametrize(("device", "backend"), GPU)
@pytest.mark.parametrize("name", FAR)
def test_images_that_lie_further_apart_than_an_int_counts(device, backend, name):
    index = next(i for i, case in enumerate(cases(ODD)) if case.name == name)
    case = cases(ODD)[index]
    with forced(backend, name):
        near = inputs(case, device, torch.float16)
        expected = results(case, functional, near)
        far = torch.empty(2**31 + 2**20, dtype=torch.float16, device=device)
        image = near[0]
        stride = (2**31, *image.stride()[1:])
        spread = far.as_strided(image.shape, stride).copy_(image.detach()).requires_grad_()
        found = results(case, functional, [spread, *near[1:]])
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="no second CUDA device here")
@pytest.mark.parametrize("backend", ["cuda", "triton"])
@pytest.mark.parametrize("index", range(len(NAMES)), ids=NAMES)
def test_a_tensor_of_another_device_than_the_current_one(backend, index):
    case = cases(ODD)[index]
    with forced(backend, case.name):
        expected = results(case, functional, inputs(case, "cuda:0", torch.float32))
        found = results(case, functional, inputs(case, "cuda:1", torch.float32))
    assert all(torch.equal(a.cpu(), b.cpu()) for a, b in zip(found, expected, strict=True))
