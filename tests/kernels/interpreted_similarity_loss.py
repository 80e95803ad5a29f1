"""The Triton kernels of similarity_loss in Triton's interpreter, against the oracle.

Collected by test_triton_interpreter.py alone, in a process that has TRITON_INTERPRET=1 from its start: bfloat16 is left
out, because the interpreter computes it wrongly, and tf32 is computed as float32 (both count only on a GPU).
"""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from numerics import assert_as_accurate, relative_error
from sampling import LAYOUTS, leaf, random_image, random_labels, random_probabilities, seed_everything
from torch.utils._python_dispatch import TorchDispatchMode
from triton.runtime.interpreter import interpreter_builder

from pyeqgan import backends, reference
from pyeqgan.functional import similarity_loss
from pyeqgan.kernels import _rows as rows
from pyeqgan.kernels import similarity_loss as kernels
from pyeqgan.kernels._logarithm import log1p, surprisal
from pyeqgan.ops import similarity_loss as contract

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::DeprecationWarning")

# Within and beyond a block of 128 pixels, a tile of 64 and 64 channels; one pixel, one class; no class, image, pixel.
SHAPES = (
    (2, 6, 5, 7),
    (1, 1, 1, 1),
    (2, 35, 9, 15),
    (1, 70, 11, 7),
    (3, 3, 16, 9),
    (2, 0, 3, 4),
    (0, 4, 3, 3),
    (2, 4, 0, 3),
)
OPTIONS = ({}, {"eps": 0.2}, {"ignore_index": 2}, {"eps": 1e-3})


@pytest.fixture(autouse=True)
def backend():
    with backends.force("triton", "similarity_loss"):
        yield


def run(function, probabilities, labels, upstream=-1.7, **options):
    """The loss and its gradient."""
    p = leaf(probabilities)
    loss = function(p, labels, **options)
    return [loss.detach(), *torch.autograd.grad(loss, p, torch.tensor(upstream, dtype=loss.dtype))]


def compare(p, labels, **options):
    """Ours and plain PyTorch against the truth."""
    ours = run(similarity_loss, p, labels, **options)
    plain = run(reference.similarity_loss, p, labels, **options)
    assert_as_accurate(ours, plain, run(reference.similarity_loss, p.double(), labels, **options), p.dtype)
    assert ours[0].dtype == torch.float32
    assert ours[1].is_contiguous(memory_format=torch._prims_common.suggest_memory_format(p))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_matches_the_truth_as_well_as_plain_pytorch(shape, dtype):
    seed_everything()
    first = SHAPES.index(shape) + 3 * (dtype == torch.float16)
    for i in (first, first + 1):
        p = random_probabilities(shape, dtype, LAYOUTS[i % len(LAYOUTS)], (1.0, 6.0)[i % 2])
        compare(p, random_labels(shape), **OPTIONS[(i + i // 4) % 4])


@pytest.mark.parametrize("sharpness", [0.0, 1e-3, 20.0, 1e3])
def test_as_accurate_when_all_pixels_or_no_two_are_alike(sharpness):
    """From all equal probabilities to one-hot ones, right and wrong: the losses of pairs span six decades."""
    seed_everything()
    labels = torch.randint(0, 5, (1, 9, 16))
    right = F.one_hot(labels, 5).permute(0, 3, 1, 2).double()
    for logits in (right * sharpness, torch.randn(1, 5, 9, 16, dtype=torch.float64) * sharpness):
        compare(logits.softmax(1).float(), labels)


@triton.jit
def _logarithms(rests, surprisals, log1ps, COUNT: tl.constexpr):
    i = tl.arange(0, COUNT)
    rest = tl.load(rests + i)
    tl.store(surprisals + i, surprisal(1.0 - rest, rest))
    tl.store(log1ps + i, log1p(rest))


def test_logarithms_are_right_to_two_roundings_of_their_value():
    rest = torch.logspace(-7, 0, 4097)[:-1].contiguous()
    found = torch.empty(2, 4096)
    _logarithms[(1,)](rest, *found, COUNT=4096)
    wide = rest.double()
    truth = torch.stack([torch.where(rest <= 0.5, -torch.log1p(-wide), -(1 - rest).double().log()), wide.log1p()])
    assert ((found - truth) / truth).abs().max() < 2 * torch.finfo(torch.float32).eps


def test_gradients_in_balance_are_not_lost_in_16_bits():
    """Of four classes none of which is told apart: what pulls and what pushes are equal but for a thousandth."""
    seed_everything()
    labels = (torch.arange(128) % 4).view(1, 8, 16)
    p = (0.5 + random_image((1, 1, 8, 16), torch.float64) * 1e-3).half()
    found = run(similarity_loss, p, labels, 1e3)[1]  # else there are no 16 bits to tell
    truth = run(reference.similarity_loss, p.double(), labels, 1e3)[1]
    assert relative_error(found, truth) < 1e-3


def test_the_parts_of_a_dtype_hold_a_float32():
    """The interpreter sees too little of float16 and nothing of bfloat16."""
    for dtype, parts in kernels.PARTS.items():
        assert parts * (1 - math.log2(torch.finfo(dtype).eps)) >= 22


def test_slopes_beyond_float16():
    """Pairs of equal labels that look alike by four millionths: the derivative is 250 000."""
    p, labels = torch.full((1, 1, 2, 3), 0.002).half(), torch.zeros(1, 2, 3, dtype=torch.int64)
    compare(p, labels)


def test_segments_of_the_columns_are_added(monkeypatch):
    seed_everything()
    monkeypatch.setattr(rows, "SEGMENT", 128)
    assert rows.segments_of(384, 384) == (3, 128)
    compare(random_probabilities((1, 5, 16, 17), torch.float32), random_labels((1, 5, 16, 17)))


def test_ignored_pixels_disturb_nobody():
    seed_everything()
    p, labels = random_probabilities((2, 5, 9, 8), torch.float32), random_labels((2, 5, 9, 8))
    ignored = (labels == -1)[:, None]
    clean, dirty = (run(similarity_loss, p.masked_fill(ignored, v), labels) for v in (0.0, math.nan))
    assert all(torch.equal(a, b) for a, b in zip(clean, dirty, strict=True))
    assert not clean[1].masked_select(ignored).any()


def test_images_without_a_pixel_are_not_counted():
    seed_everything()
    p, labels = random_probabilities((3, 5, 4, 6), torch.float32), random_labels((3, 5, 4, 6))
    labels[1] = -1
    every = run(similarity_loss, p, labels)
    assert not every[1][1].any()
    torch.testing.assert_close(every[0], similarity_loss(p[::2], labels[::2]))
    nothing = run(similarity_loss, p, torch.full_like(labels, -1))
    assert nothing[0] == 0 and not nothing[1].any()


def test_no_gradient_flows_where_it_is_clamped():
    p = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]).view(1, 2, 1, 3)
    for labels in (torch.tensor([[[0, 1, 0]]]), torch.tensor([[[0, 0, 1]]])):
        loss, grad = run(similarity_loss, p, labels, eps=0.01)
        assert not grad.any()
        torch.testing.assert_close(loss, reference.similarity_loss(p, labels, eps=0.01))


def test_any_integers_are_labels():
    seed_everything()
    p, labels = random_probabilities((2, 5, 4, 6), torch.float32), torch.randint(0, 3, (2, 4, 6))
    names = torch.tensor([-(2**63), 2**62, 2**62 + 1])
    for ignored in range(3):
        found = similarity_loss(p, names[labels], ignore_index=int(names[ignored]))
        assert torch.equal(found, similarity_loss(p, labels, ignore_index=ignored))


def test_nan_reaches_whoever_meets_it():
    seed_everything()
    p, labels = random_probabilities((2, 5, 7, 8), torch.float32), random_labels((2, 5, 7, 8))
    p[0, 1, 3, 3], labels[0, 3, 3] = math.nan, 2
    loss, grad = run(similarity_loss, p, labels)
    assert loss.isnan()
    assert torch.equal(grad[0].isnan().any(0), labels[0] != -1)  # each pixel of the image meets it
    assert grad[1].isfinite().all()


def test_incoming_gradients_of_any_size():
    seed_everything()
    p, labels = random_probabilities((1, 4, 5, 6), torch.float32), random_labels((1, 4, 5, 6))
    expected = run(similarity_loss, p, labels, 1.0)[1]
    for size in (1e-30, 1e30):
        assert relative_error(run(similarity_loss, p, labels, size)[1].double() / size, expected) < 1e-5


class LargestResult(TorchDispatchMode):
    """Of all of torch's operations, in numbers."""

    numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.numbers = max(self.numbers, result.numel())
        return result


def test_no_tensor_of_pairs():
    p, labels = random_probabilities((1, 3, 16, 24), torch.float32), random_labels((1, 3, 16, 24))
    with LargestResult() as largest:
        run(similarity_loss, p, labels)
    assert largest.numbers <= 16 * labels.numel()  # the packed rows


def test_the_second_order_needs_no_tensor_of_pairs_either(monkeypatch):
    seed_everything()
    monkeypatch.setattr(contract, "BLOCK_PAIRS", 2000)
    p, labels = random_probabilities((1, 3, 8, 12), torch.float32), random_labels((1, 3, 8, 12))

    def penalty(function, p):
        x = leaf(p)
        (grad,) = torch.autograd.grad(function(x, labels, eps=1e-3), x, create_graph=True)
        return torch.autograd.grad(grad.square().sum(), x)

    with LargestResult() as largest:
        ours = penalty(similarity_loss, p)
    assert largest.numbers < labels.numel() ** 2
    plain, truth = penalty(reference.similarity_loss, p), penalty(reference.similarity_loss, p.double())
    assert_as_accurate(ours, plain, truth, p.dtype)


def test_float64_is_refused():
    with pytest.raises(TypeError, match="probabilities: expected float32, bfloat16 or float16, got torch"):
        similarity_loss(torch.zeros(1, 2, 3, 3, dtype=torch.float64), torch.zeros(1, 3, 3, dtype=torch.int64))


@pytest.mark.parametrize("axes", [(0, 2), (1, 3)])
def test_strides_beyond_two_to_the_31(axes, tmp_path):
    """Small images whose strides along two axes are larger than any int32, in a sparse file of which little exists."""
    seed_everything()
    far, strides = 2**31 + 8, [512, 64, 8, 1]
    strides[axes[0]], strides[axes[1]] = far, 3 * far
    p, labels = random_probabilities((2, 3, 2, 3), torch.float16), random_labels((2, 3, 2, 3))
    away = sparse(tmp_path, 12 * far, torch.float16).as_strided(p.shape, strides).copy_(p)
    for value, expected in zip(run(similarity_loss, away, labels), run(similarity_loss, p, labels), strict=True):
        assert torch.equal(value, expected)


def sparse(folder, size, dtype):
    """Zeros of which only those exist that are written."""
    file = folder / "sparse"
    flat = torch.from_file(str(file), shared=True, size=size, dtype=dtype)
    file.unlink()
    return flat


def test_images_whose_rows_begin_beyond_two_to_the_31(tmp_path, monkeypatch):
    """The one program of an image runs alone, and is told how many images there are before it."""
    seed_everything()
    size, before = rows.PADDING, 2**24 + 1
    options = {"PRECISION": "ieee", "WIDTH": 16, "ROWS": size, "COLUMNS": 64, "DEPTH": 64}
    near = [torch.rand(size, 16).half() / 8, torch.randint(3, (size,)), torch.empty(size), torch.empty(size, 16)]
    away = []
    for x in near:
        flat = sparse(tmp_path, (before + 1) * x.numel(), x.dtype)
        flat[-x.numel() :] = x.flatten()
        away.append(flat)

    def launch(values, labels, sums, slopes):
        kernels.sum_surprisals[(1, 1)](values, labels, sums, size, size, -1, 1e-6, 1 - 1e-6, **options)
        kernels.sum_gradients[(1, 1, 1)](
            values, labels, slopes, size, size, 1.0, 1e-6, 1 - 1e-6, **options, CHANNELS=64, PARTS=2
        )

    launch(*near)
    monkeypatch.setattr(
        interpreter_builder,
        "set_grid_idx",
        lambda x, y, z: setattr(interpreter_builder, "grid_idx", (x + before, y, z)),
    )
    launch(*away)
    for x, flat in zip(near, away, strict=True):
        assert torch.equal(flat[-x.numel() :].view(x.shape), x) and x.any()
