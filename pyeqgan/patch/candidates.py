"""What a graph may compute, by the shape of it: the operations it is then compared with (`recognition`)."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from pyeqgan import functional
from pyeqgan.patch import recognition
from pyeqgan.patch.recognition import Candidate, Piece, Probe

SCALES = (1.0, 1e-2, 30.0)
_NONE_IGNORED = -(2**62)  # a label that nobody gives


def contrastive_losses(piece: Piece) -> Iterator[Candidate]:
    """Of two inputs, features and labels in any order, as rows or as maps; the loss may be scaled."""
    if len(piece.inputs) != 2 or piece.buffers:
        return
    numbers = recognition.constants(piece)
    temperatures = dict.fromkeys([*(n for n in numbers if n > 0), *(1 / n for n in numbers if n > 0), 1.0])
    ignored = dict.fromkeys([_NONE_IGNORED, *(n for n in numbers if isinstance(n, int)), -1, 255])
    for first, maps in itertools.product((0, 1), (False, True)):
        probes = list(_contrastive_probes(numbers, first, maps))
        values = [_scalar(piece, probe) for probe in probes[:2]]
        if None in values:
            continue
        for temperature, mode, normalize, ignore in itertools.product(
            temperatures, ("per_positive", "supcon"), (True, False), ignored
        ):
            options = {"temperature": temperature, "mode": mode, "normalize": normalize, "ignore_index": ignore}
            loss = functools.partial(_contrastive, first=first, maps=maps, scale=1.0, **options)
            ratios = [value / float(loss(*probe.arguments)) for value, probe in zip(values, probes, strict=False)]  # type: ignore[operator]
            if not math.isclose(*ratios, rel_tol=1e-8):
                continue
            scale = 1.0 if math.isclose(ratios[0], 1.0, rel_tol=1e-8) else ratios[0]
            text = f"temperature={temperature:g}, mode={mode!r}"
            text += "" if normalize else ", normalize=False"
            text += "" if ignore == _NONE_IGNORED else f", ignore_index={ignore}"
            text += "" if scale == 1 else f", times {scale:g}"
            yield Candidate("contrastive_loss", text, functools.partial(loss, scale=scale), probes)


def _contrastive(*arguments: Tensor, first: int, maps: bool, scale: float, **options: Any) -> Tensor:
    features, labels = arguments[first], arguments[1 - first]
    if maps:
        features = features.permute(0, 2, 3, 1).reshape(-1, features.shape[1])
    loss = functional.contrastive_loss(features, labels.reshape(-1), **options)
    return loss if scale == 1 else scale * loss


def _scalar(piece: Piece, probe: Probe) -> float | None:
    try:
        value = piece(*probe.arguments)
    except Exception:  # somebody's code on inputs it was not written for
        return None
    return float(value) if isinstance(value, Tensor) and value.dim() == 0 else None


def _contrastive_probes(numbers: Sequence[Any], first: int, maps: bool) -> Iterator[Probe]:
    generator = torch.Generator().manual_seed(0)

    def probe(labels: Sequence[int], special: str | None = None, scale: float = 1.0) -> Probe:
        rows = torch.tensor(labels)
        features = scale * torch.randn(len(rows), 5, generator=generator, dtype=torch.float64)
        if maps:
            features, rows = features.view(2, -1, 2, 5).permute(0, 3, 1, 2).contiguous(), rows.view(2, -1, 2)
        return Probe((features, rows) if first == 0 else (rows, features), special)

    balanced = [0, 1, 2, 0, 1, 2, 2, 1, 0, 0, 1, 2]
    for scale in SCALES:
        yield probe(balanced, scale=scale)
    yield probe([3, 3, 7, 7, 7, 5, 5, 3, 3, 7, 1, 1])
    yield probe([4] * 8, "where all labels are equal")
    yield probe([0, 0, 0, 1, 2, 2, 3, 0], "where a row has no positive")
    yield probe([0, 1, 2, 3], "where no row has a positive")
    for label in dict.fromkeys([-1, 255, 0, *(n for n in numbers if isinstance(n, int))]):
        yield probe([label, 1, label, 6, 1, 6, label, 6], f"where a label is {label}")


def local_fusions(piece: Piece) -> Iterator[Candidate]:
    """Of four inputs: base, references, weights and positions in any order; with the matches or without."""
    if len(piece.inputs) != 4 or piece.buffers:
        return
    returns = len(piece.output) if isinstance(piece.output, (list, tuple)) else 0
    for order in itertools.permutations(range(4)):
        kernel = functools.partial(_local_fusion, order=order, returns=returns)
        yield Candidate("local_fusion", "", kernel, list(_fusion_probes(order)))


def _local_fusion(*arguments: Tensor, order: Sequence[int], returns: int) -> Any:
    base, references, weights, positions = (arguments[i] for i in order)
    fused, matches = functional.local_fusion(base, references, weights, positions)
    return (fused, matches)[:returns] if returns else fused


def _fusion_probes(order: Sequence[int]) -> Iterator[Probe]:
    generator = torch.Generator().manual_seed(0)

    def probe(b: int, r: int, c: int, h: int, w: int, m: int, scale: float, special: str | None = None) -> Probe:
        def random(*shape: int) -> Tensor:
            return scale * torch.randn(shape, generator=generator, dtype=torch.float64)

        positions = torch.stack([torch.randperm(h * w, generator=generator)[:m] for _ in range(b)])
        references = random(b, r, c, h, w)
        if special is not None:
            references[:, :, :, h // 2 :] = 0
            references = -references.abs()
        roles = (random(b, c, h, w).abs() if special else random(b, c, h, w), references, random(b, r + 1), positions)
        return Probe(tuple(roles[order.index(i)] for i in range(4)), special)

    yield probe(2, 2, 3, 4, 5, 7, SCALES[0])
    yield probe(1, 3, 5, 3, 3, 9, SCALES[1])
    yield probe(3, 1, 2, 2, 6, 1, SCALES[2])
    yield probe(2, 2, 3, 4, 5, 20, SCALES[0], "where several positions match alike")


def propagations(piece: Piece) -> Iterator[Candidate]:
    """Of one map, with a Gaussian that may be a buffer: then for maps of its size alone, if a square."""
    sizes, buffers = [(5, 7)], piece.values
    if buffers:
        dims = dict.fromkeys(d for b in buffers for d in b.shape)
        sides = [s for d in dims for s in (d, math.isqrt(d)) if s == d or s * s == d]
        sizes = [(s, s) for s in dict.fromkeys(sides) if 2 <= s <= 64]
    for height, width in sizes:
        sigma = _sigma(piece, height, width)
        if sigma is None:
            continue
        generator = torch.Generator().manual_seed(0)
        probes = [
            Probe((scale * torch.randn(batch, 3, height, width, generator=generator, dtype=torch.float64),))
            for batch, scale in zip((2, 1, 2), SCALES, strict=True)
        ]
        for radius in (None, height + width):
            kernel = functools.partial(functional.bilateral_propagation, sigma=sigma, radius=radius)
            yield Candidate("bilateral_propagation", f"sigma={sigma:g}", kernel, probes)


def _sigma(piece: Piece, height: int, width: int) -> float | None:
    """Measured: how much less the neighbour counts than the pixel itself in the spatial half of the result."""
    x = torch.zeros(2, 3, height, width, dtype=torch.float64, requires_grad=True)
    i, j = height // 2, width // 2
    try:
        y = piece(x)
        if not isinstance(y, Tensor) or y.shape != (2, 6, height, width):
            return None
        (row,) = torch.autograd.grad(y[0, 0, i, j], x)
    except Exception:  # somebody's code on inputs it was not written for
        return None
    near, own = float(row[0, 0, i, j - 1]), float(row[0, 0, i, j])
    if not 0 < near < own:
        return None
    sigma = math.sqrt(-0.5 / math.log(near / own))
    return round(sigma, 6) if math.isclose(sigma, round(sigma, 6), rel_tol=1e-6) else sigma


def of(graph: fx.Graph, root: nn.Module) -> Iterator[tuple[fx.Node | None, Piece, Iterator[Candidate]]]:
    """The pieces of a graph that may be an operation: a concatenation's node, or None for all of it; its candidates."""
    everything = recognition.cut(graph, recognition.placeholders(graph), recognition.result(graph), root)
    if everything is not None:
        yield None, everything, itertools.chain(contrastive_losses(everything), local_fusions(everything))
    for node in graph.nodes:
        if node.op == "call_function" and node.target in (torch.cat, torch.concat, torch.concatenate):
            source = _only_source(node, graph)
            piece = None if source is None else recognition.cut(graph, [source], node, root)
            if piece is not None:
                yield node, piece, propagations(piece)


def _only_source(node: fx.Node, graph: fx.Graph) -> fx.Node | None:
    """The nearest value from which, with buffers, everything the node needs is computed; not the node itself."""
    ordered = list(graph.nodes)
    place = {n: i for i, n in enumerate(ordered)}
    waiting = {n for n in node.all_input_nodes if n.op != "get_attr"}
    while len(waiting) > 1:
        latest = max(waiting, key=place.__getitem__)
        waiting.remove(latest)
        waiting |= {n for n in latest.all_input_nodes if not _of_buffers(n)}
        if latest.op == "placeholder":
            return None
    return waiting.pop() if waiting else None


def _of_buffers(node: fx.Node) -> bool:
    inputs = node.all_input_nodes
    return node.op == "get_attr" or (node.op != "placeholder" and bool(inputs) and all(map(_of_buffers, inputs)))
