"""What ops.md asks of every operation alike, on the kernel that runs here: accuracy at every dtype, layout and odd
size against the oracle in float64, both orders of gradient, opcheck, threads, compile, saved memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import plain
import pytest
import torch
from numerics import assert_as_accurate, assert_gradients_of_both_orders, saved_bytes
from sampling import DTYPES, leaf, random_image, seed_everything
from torch import Tensor

from pyeqgan import functional, reference


@dataclass(frozen=True)
class Problem:
    """``run(module, *tensors)`` calls the operation of that module; ``tensors`` are the differentiable ones."""

    tensors: Sequence[Tensor]
    run: Callable[..., Tensor]


def image(*shape: int, layout: str = "contiguous") -> Tensor:
    return random_image(shape, torch.float64, layout)


def local_fusion(layout: str, odd: int, *, smooth: bool = False) -> Problem:
    h, w = ((5, 7), (1, 1), (13, 17))[odd]
    b, c, r = ((2, 6, 2), (1, 1, 1), (2, 19, 3))[odd]
    positions = torch.stack([torch.randperm(h * w)[: (h * w + 1) // 2] for _ in range(b)])
    references = torch.stack([image(b, c, h, w, layout=layout) for _ in range(r)], 1)
    tensors = image(b, c, h, w, layout=layout), references, torch.rand(b, r + 1, dtype=torch.float64)
    # The matches are taken from the float64 oracle: at a rounding tie another one would be as right.
    matches = reference.local_fusion(*tensors, positions)[1]

    def run(module: object, base: Tensor, refs: Tensor, weights: Tensor) -> Tensor:
        fused, found = module.local_fusion(base, refs, weights, positions)  # type: ignore[attr-defined]
        return (
            fused
            if torch.equal(found, matches)
            else module.lifted_fusion(  # type: ignore[attr-defined]
                base, refs, weights, positions, matches, (h, w)
            )
        )

    return Problem(tensors, run)


def lifted_fusion(layout: str, odd: int, *, smooth: bool = False) -> Problem:
    (h, w), s = (((3, 4), 2), ((1, 1), 3), ((5, 3), 4))[odd]
    b, c, r = ((2, 6, 2), (1, 1, 1), (1, 17, 2))[odd]
    m = (h * w + 1) // 2
    positions = torch.stack([torch.randperm(h * w)[:m] for _ in range(b)])
    matches = torch.randint(h * w, (b, r, m))
    references = torch.stack([image(b, c, s * h, s * w, layout=layout) for _ in range(r)], 1)
    tensors = image(b, c, s * h, s * w, layout=layout), references, torch.rand(b, r + 1, dtype=torch.float64)
    return Problem(tensors, lambda m, *t: m.lifted_fusion(*t, positions, matches, (h, w)))


def equalization_fusion(layout: str, odd: int, *, smooth: bool = False) -> Problem:
    maps, co, out, h, w = (((6, 5, 3), 7, 4, 4, 5), ((1, 1), 4, 1, 3, 2), ((17, 35), 33, 19, 3, 9))[odd]
    norm = ("batch", None, "instance")[odd]
    shapes = (co, sum(maps)), (co,), (4, co), (4,), (co, 4), (co,), (out, 2 * co)
    n = len(maps)
    tensors = [
        *(image(2, c, h, w, layout=layout) for c in maps),
        *(torch.randn(s + (1, 1) * (len(s) == 2), dtype=torch.float64) / s[-1] ** 0.5 for s in shapes),
        *(torch.rand(c, dtype=torch.float64) + 0.5 for c in (co, co, out, out) if norm),
    ]
    names = "fuse_norm_weight", "fuse_norm_bias", "out_norm_weight", "out_norm_bias"

    def run(module: object, *t: Tensor) -> Tensor:
        affine = dict(zip(names, t[n + 7 :], strict=False))
        return module.equalization_fusion(  # type: ignore[attr-defined]
            *t[:2], *t[n : n + 7], detail=t[2] if n == 3 else None, norm=norm, training=True,
            negative_slope=1.0 if smooth else 0.2, **affine,
        )  # fmt: skip

    return Problem(tensors, run)


def skip_decoder_block(layout: str, odd: int, *, smooth: bool = False) -> Problem:
    cx, cs, co, h, w = ((6, 5, 7, 4, 5), (1, 1, 1, 1, 1), (17, 3, 19, 3, 9))[odd]
    fine = 1 + (odd != 0)
    norm = ("batch", None, "instance")[odd]
    tensors = [
        image(2, cx, h, w, layout=layout),
        image(2, cs, fine * h, fine * w, layout=layout),
        torch.randn(co, cx + cs, 3, 3, dtype=torch.float64) / (3 * (cx + cs) ** 0.5),
        torch.randn(co, dtype=torch.float64),
        *(torch.rand(co, dtype=torch.float64) + 0.5 for _ in range(2 if norm else 0)),
    ]
    # Of one pixel tanh may leave a few saturated values, and 1 − y² of those is a matter of luck at half precision.
    activation = (("tanh", None, "tanh") if smooth else ("leaky_relu", "tanh", "relu"))[odd]

    def run(module: object, x: Tensor, skip: Tensor, weight: Tensor, bias: Tensor, *affine: Tensor) -> Tensor:
        names = dict(zip(("norm_weight", "norm_bias"), affine, strict=False))
        return module.skip_decoder_block(  # type: ignore[attr-defined]
            x, skip, weight, bias, norm=norm, training=True, activation=activation, **names
        )

    return Problem(tensors, run)


def activated_conv2d(layout: str, odd: int, *, smooth: bool = False) -> Problem:
    c, co, h, w, k, padding = ((6, 7, 5, 6, 3, 1), (1, 1, 2, 2, 3, 1), (17, 19, 9, 7, 5, 2))[odd]
    mode = ("reflect", "zeros", "replicate")[odd]
    tensors = (
        image(2, c, h, w, layout=layout),
        torch.randn(co, c, k, k, dtype=torch.float64) / (k * c**0.5),
        torch.randn(co, dtype=torch.float64),
    )
    activation = "tanh" if smooth else ("leaky_relu", "relu", "tanh")[odd]
    options = {"padding": padding, "padding_mode": mode, "activation": activation}
    return Problem(tensors, lambda m, *t: m.activated_conv2d(*t, **options))


def layout_conv2d(layout: str, odd: int, *, smooth: bool = False) -> Problem:
    classes, co, h, w, k, padding = ((4, 7, 5, 6, 3, 1), (1, 1, 2, 2, 1, 0), (35, 33, 9, 7, 4, 2))[odd]
    labels = torch.randint(-1, classes, (2, h, w))
    activation = (("tanh", None, "tanh") if smooth else ("leaky_relu", "relu", "tanh"))[odd]  # see skip_decoder_block
    options = {"stride": 1 + odd % 2, "padding": padding, "activation": activation}
    tensors = image(co, classes, k, k, layout=layout), torch.randn(co, dtype=torch.float64)
    return Problem(tensors, lambda m, *t: m.layout_conv2d(labels, *t, **options))


def similarity_loss(layout: str, odd: int, *, smooth: bool = False) -> Problem:
    shape = ((2, 5, 4, 5), (1, 1, 1, 2), (2, 19, 9, 7))[odd]
    labels = torch.randint(-1, 3, (shape[0], *shape[2:]))
    labels[:, 0, 0] = 0  # a pixel that counts
    p = image(*shape, layout=layout)
    (p if p._base is None else p._base).sigmoid_().div_(shape[1] ** 0.5)  # keeps the layout
    return Problem((p,), lambda m, p: m.similarity_loss(p, labels, eps=1e-3))


def modulated_norm(layout: str, odd: int, *, smooth: bool = False) -> Problem:
    c, h, w = ((6, 5, 7), (1, 2, 1), (19, 13, 17))[odd]
    norm = ("instance", None, "batch")[odd]
    x, gamma, beta = (image(2, c, h, w, layout=layout) for _ in range(3))
    if odd == 2:
        gamma, beta = gamma[..., 0, 0], beta[..., 0, 0]
    activation = "tanh" if smooth else ("leaky_relu", "tanh", "relu")[odd]
    return Problem(
        (x, gamma, beta), lambda m, *t: m.modulated_norm(*t, norm=norm, training=True, activation=activation)
    )


def contrastive_loss(layout: str, odd: int, *, smooth: bool = False) -> Problem:
    n, k, d = ((37, 23, 6), (23, 19, 3), (131, 67, 33))[odd]
    mode = ("per_positive", "supcon", "per_positive")[odd]
    labels, key_labels = torch.randint(-1, 4, (n,)), torch.randint(-1, 4, (k,))
    if layout == "contiguous":
        return Problem(
            (torch.randn(n, d, dtype=torch.float64), torch.tensor(0.2, dtype=torch.float64)),
            lambda m, q, t: m.contrastive_loss(q, labels, temperature=t, mode=mode),
        )
    tensors = torch.randn(n, 2 * d, dtype=torch.float64)[:, ::2], torch.randn(d, k, dtype=torch.float64).T
    return Problem(tensors, lambda m, q, keys: m.contrastive_loss(q, labels, keys, key_labels, mode=mode))


def equalization_consistency_loss(layout: str, odd: int, *, smooth: bool = False) -> Problem:
    shapes = (((2, 6, 4, 5), (2, 3, 8, 10)), ((1, 1, 1, 1),), ((1, 17, 7, 3), (0, 3, 2, 2), (2, 5, 3, 3)))[odd]
    distance = ("cosine", "l1", "l2")[odd]
    n = len(shapes)
    weights = [0.5 + i for i in range(n)]
    return Problem(
        [image(*s, layout=layout) for _ in range(2) for s in shapes],
        lambda m, *t: m.equalization_consistency_loss(t[:n], t[n:], scale_weights=weights, distance=distance),
    )


PROBLEMS = (
    local_fusion,
    lifted_fusion,
    equalization_fusion,
    skip_decoder_block,
    activated_conv2d,
    layout_conv2d,
    similarity_loss,
    modulated_norm,
    contrastive_loss,
    equalization_consistency_loss,
)
every_problem = pytest.mark.parametrize("make", PROBLEMS, ids=lambda f: f.__name__)


def results(module: object, problem: Problem, tensors: Sequence[Tensor], upstream: Tensor | None = None):
    inputs = [leaf(t) for t in tensors]
    y = problem.run(module, *inputs)
    upstream = torch.randn(y.shape, dtype=torch.float64) if upstream is None else upstream
    return [y, *torch.autograd.grad(y, inputs, upstream.to(y.dtype))], upstream


@every_problem
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_as_accurate_as_the_oracle_at_the_same_dtype(make, dtype):
    seed_everything()
    for odd in range(3):
        # One small problem's error is a matter of luck: the root mean square of many draws is not.
        draws = [
            draw(make, dtype, layout, odd)
            for layout in ("contiguous", "channels_last", "sliced", "transposed")
            for _ in range((2, 8, 2)[odd])
        ]
        for what in ("output", "gradients"):
            vectors = [torch.cat([d[what][i] for d in draws]) for i in range(3)]
            assert_as_accurate(*([v] for v in vectors), dtype)


def draw(make, dtype: torch.dtype, layout: str, odd: int) -> dict[str, list[Tensor]]:
    """Output and gradients of ours, the plain form and the truth, in units of the truth's norm."""
    # One value that rounding moves across a kink outweighs all rounding: kinks are compared in float64.
    problem = make(layout, odd, smooth=dtype != torch.float64)
    tensors = [t.to(dtype) for t in problem.tensors]
    truth, upstream = results(reference, problem, [t.double() for t in tensors])
    ours, _ = results(functional, problem, tensors, upstream)
    rounded, _ = results(plain, problem, tensors, upstream)
    # Gradients as one vector: one that is zero by nature (a bias before a norm) is noise by itself.
    found = {
        "output": [r[0].detach().double().flatten() for r in (ours, rounded, truth)],
        "gradients": [torch.cat([t.double().flatten() for t in r[1:]]) for r in (ours, rounded, truth)],
    }
    return {what: [v / v_truth[-1].norm().clamp_min(1e-30) for v in v_truth] for what, v_truth in found.items()}


@every_problem
def test_gradients_of_both_orders(make):
    seed_everything()
    for odd in range(3):
        problem = make("contiguous", odd)
        inputs = [leaf(t) for t in problem.tensors if t.numel()]
        if len(inputs) != len(problem.tensors):
            continue

        def run(*tensors, problem=problem):
            return problem.run(functional, *tensors)

        assert_gradients_of_both_orders(run, inputs)


@every_problem
def test_only_one_gradient_may_be_asked_for(make):
    seed_everything()
    problem = make("channels_last", 0)
    every, upstream = results(functional, problem, problem.tensors)
    for i, tensor in enumerate(problem.tensors):
        inputs = [leaf(t) if t is tensor else t for t in problem.tensors]
        (alone,) = torch.autograd.grad(problem.run(functional, *inputs), inputs[i], upstream)
        torch.testing.assert_close(alone, every[1 + i])


@every_problem
def test_result_does_not_depend_on_the_number_of_threads(make):
    seed_everything()
    problem = make("contiguous", 2)
    tensors = [t.float() for t in problem.tensors]
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one, upstream = results(functional, problem, tensors)
        torch.set_num_threads(3)
        three, _ = results(functional, problem, tensors, upstream)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(one, three, strict=True))


@every_problem
def test_compiles_without_a_graph_break(make):
    seed_everything()
    problem = make("contiguous", 0)
    if make is local_fusion:  # its run() looks at the matches, which a graph cannot
        tensors = [t.float() for t in problem.tensors]
        positions = torch.stack([torch.randperm(35)[:9] for _ in range(2)])
        compiled = torch.compile(
            lambda *t: functional.local_fusion(*t, positions)[0], fullgraph=True, backend="aot_eager"
        )
        torch.testing.assert_close(compiled(*tensors), functional.local_fusion(*tensors, positions)[0])
        return
    inputs = [leaf(t.float()) for t in problem.tensors]
    torch._dynamo.reset()  # which counts the operations before as recompilations of this one
    compiled = torch.compile(lambda *t: problem.run(functional, *t), fullgraph=True, backend="aot_eager")
    y = problem.run(functional, *inputs)
    torch.testing.assert_close(compiled(*inputs), y)
    expected = torch.autograd.grad(y.sum(), inputs)
    for a, b in zip(torch.autograd.grad(compiled(*inputs).sum(), inputs), expected, strict=True):
        torch.testing.assert_close(a, b)


def test_what_is_saved_for_backward():
    """The memory promises of the docstrings, in bytes."""
    x, skip = torch.randn(2, 6, 8, 8, requires_grad=True), torch.randn(2, 4, 8, 8, requires_grad=True)
    weight, bias = torch.randn(5, 10, 3, 3, requires_grad=True), torch.randn(5, requires_grad=True)
    output = 2 * 5 * 16 * 16
    block = saved_bytes(lambda: functional.skip_decoder_block(x, skip, weight, bias, norm="batch", training=True))
    assert block <= 4 * (x.numel() + skip.numel() + weight.numel() + output + 5 * 5)
    shapes = (7, 10), (7,), (4, 7), (4,), (7, 4), (7,), (5, 14)
    products = [torch.randn(s + (1, 1) * (len(s) == 2), requires_grad=True) for s in shapes]
    fusion = saved_bytes(lambda: functional.equalization_fusion(x, skip, *products))
    numbers = x.numel() + skip.numel() + (7 + 5 + 9) * 2 * 8 * 8 + 2 * (2 * (7 + 5) + 2 * 7)
    assert fusion <= 4 * (numbers + sum(p.numel() for p in products))
    w = torch.randn(5, 6, 3, 3, requires_grad=True)
    assert saved_bytes(lambda: functional.activated_conv2d(x, w, bias)) <= 4 * (x.numel() + w.numel() + bias.numel())
    gamma, beta = torch.randn(2, 2, 6, 8, 8, requires_grad=True)
    modulated = saved_bytes(lambda: functional.modulated_norm(x, gamma, beta))
    assert modulated <= 4 * (3 * x.numel() + 2 * 2 * 6)
    q, labels = torch.randn(300, 4, requires_grad=True), torch.randint(3, (300,))
    assert saved_bytes(lambda: functional.contrastive_loss(q, labels)) <= 4 * q.numel() + 300 * 8 * 8 + 64
    assert saved_bytes(lambda: functional.equalization_consistency_loss([x], [x * 2])) <= 4 * 2 * x.numel() + 64


def opcheck(name: str, *arguments: object) -> None:
    torch.library.opcheck(getattr(torch.ops.pyeqgan, name).default, arguments)


@pytest.mark.parametrize("layout", ["channels_last", "sliced"])
def test_opcheck(layout):
    seed_everything()
    x, skip = (leaf(random_image((2, c, 4, 5), torch.float32, layout)) for c in (3, 2))
    weight, bias = torch.randn(4, 3, 3, 3, requires_grad=True), torch.randn(4, requires_grad=True)
    opcheck("activated_conv2d", x, weight, bias, "leaky_relu", 0.2, 1, "reflect")
    gamma, beta = (leaf(random_image((2, 3, 4, 5), torch.float32, layout)) for _ in range(2))
    opcheck("modulated_norm", x, gamma, beta, "instance", None, None, True, 1e-5, "leaky_relu", 0.2)
    joint = torch.randn(4, 5, 3, 3, requires_grad=True)
    opcheck(
        "skip_decoder_block", x, skip, joint, bias, "instance", None, None, None, None, True, 1e-5, "leaky_relu", 0.2
    )
    references, share = torch.randn(2, 2, 3, 4, 5, requires_grad=True), torch.rand(2, 3, requires_grad=True)
    positions = torch.stack([torch.randperm(20)[:7] for _ in range(2)])
    opcheck("local_fusion", x, references, share, positions)
    opcheck("lifted_fusion", x, references, share, positions, torch.randint(20, (2, 2, 7)), [4, 5])
    opcheck("equalization_consistency_loss", [x], [leaf(random_image((2, 3, 4, 5), torch.float32))], [1.0], "cosine")
    shapes = (4, 5), (4,), (4, 4), (4,), (4, 4), (4,), (3, 8)
    products = (torch.randn(s + (1, 1) * (len(s) == 2), requires_grad=True) for s in shapes)
    norms = (torch.rand(c, requires_grad=True) for c in (4, 4, 3, 3))
    options = (None,) * 4 + ("batch", True, 1e-5, 1.5, 8, 0.2)
    opcheck("equalization_fusion", x, skip, None, *products, *norms, *options)
    q, t = torch.randn(9, 4, requires_grad=True), torch.tensor(0.2, requires_grad=True)
    opcheck("contrastive_loss", q, torch.randint(-1, 3, (9,)), None, None, t, "per_positive", True, -1, None, None)
