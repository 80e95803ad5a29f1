"""The problems measured: every operation at the shapes of the models (EqGAN at 128², B 8, K 3; ECGAN at 256²), or at
tiny ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pyeqgan import functional
from pyeqgan.benchmarks import baselines


@dataclass(frozen=True)
class Case:
    """One operation, or one variant of it ("self"), on one problem.

    ``make(layout)`` returns the differentiable tensors; ``ours`` and ``eager`` map them to a tensor whose gradients
    are taken. ``flops`` are those of the direct form's products in one forward and backward pass, each product
    counted once (a kernel that needs fewer, as Winograd's, may exceed the machine's rate); 0 where there are none.
    ``compiled``: whether the eager form is one that torch.compile takes; ``twice``: whether it has a second derivative,
    which the stage "penalty" takes.
    """

    operation: str
    problem: str
    make: Callable[[torch.memory_format], Sequence[Tensor]]
    ours: Callable[..., Tensor]
    eager: Callable[..., Tensor]
    layouts: tuple[str, ...] = ("contiguous",)
    flops: float = 0.0
    compiled: bool = True
    twice: bool = True
    variant: str = ""


BOTH = ("contiguous", "channels_last")


def cases(*, tiny: bool = False) -> list[Case]:
    """All of them; ``tiny``: one of every operation, to try the tools themselves. Labels and positions are fixed."""
    draw = _draw()
    batch = 2 if tiny else 8
    bilateral = [(6, 8)] if tiny else [(128, 32), (64, 64), (32, 128)]
    local = [(6, 4)] if tiny else [(128, 8), (128, 16), (128, 32)]
    decoder = [(4, 4, 4, 4)] if tiny else [(128, 128, 128, 16), (128, 128, 64, 32), (64, 64, 32, 64)]
    modulation = [(2, 4, 8)] if tiny else [(4, 64, 64), (4, 128, 32), (1, 64, 256), (1, 256, 64)]
    convolution = [(4, 8)] if tiny else [(128, 64), (256, 32), (512, 16)]
    contrast = [(96, 8)] if tiny else [(1024, 256), (2048, 128), (4096, 128), (8192, 64)]
    pyramid = [(6, 8)] if tiny else [(128, 16), (128, 32), (64, 64), (32, 128)]
    inputs = 4 if tiny else 128
    layouts = [(2, 5, 8, 8)] if tiny else [(8, n, 64, 64) for n in (6, 35, 150, 182)] + [(2, 35, 256, 128)]
    kernels = [(3, 1)] if tiny else [(3, 1), (4, 2)]
    segmented = [(2, 5, 8, 8)] if tiny else [(4, 6, 64, 64), (4, 35, 64, 64), (2, 6, 128, 64), (2, 35, 128, 64)]
    return [
        *(bilateral_propagation(batch, *p) for p in bilateral),
        *(local_fusion(batch, *p, draw) for p in local),
        *(skip_decoder_block(batch, *p) for p in decoder),
        *(modulated_norm(*p) for p in modulation),
        *(activated_conv2d(batch, *p) for p in convolution),
        *(layout_conv2d(*p, *k, draw, bag=bag) for p in layouts for k in kernels for bag in (False, True)),
        *(similarity_loss(*p, draw, in_chunks=in_chunks) for p in segmented for in_chunks in (False, True)),
        *(contrastive_loss(*p, draw, own_keys=own_keys) for p in contrast for own_keys in (False, True)),
        consistency_loss(batch, pyramid),
        *(equalization_fusion(batch, inputs, *p) for p in pyramid),
    ]


def scaling(*, tiny: bool = False) -> list[Case]:
    """Self-contrast of ever more rows; the eager form goes in chunks where the whole matrix is beyond a laptop."""
    draw = _draw()
    sizes = (64, 128) if tiny else (1024, 2048, 4096, 8192, 16384, 32768)
    return [contrastive_loss(n, 64, draw, own_keys=False, in_chunks=n > 8192) for n in sizes]


def large() -> list[Case]:
    """One or two of every operation that fill a large GPU: those that the goals on it are set for."""
    draw = _draw()
    return [
        bilateral_propagation(32, 64, 64),
        local_fusion(32, 128, 32, draw),
        skip_decoder_block(32, 128, 128, 64, 32),
        modulated_norm(8, 64, 256),
        activated_conv2d(32, 256, 32),
        layout_conv2d(8, 150, 256, 256, 3, 1, draw, bag=False),
        similarity_loss(4, 35, 128, 64, draw, in_chunks=False),
        contrastive_loss(8192, 128, draw, own_keys=True),
        contrastive_loss(32768, 256, draw, own_keys=False),
        consistency_loss(32, [(128, 16), (128, 32), (64, 64), (32, 128)]),
        equalization_fusion(32, 128, 64, 64),
    ]


def _draw() -> torch.Generator:
    """On the default device, where labels and positions come to lie."""
    return torch.Generator(torch.get_default_device()).manual_seed(0)


def _normal(*shape: int, layout: torch.memory_format = torch.contiguous_format) -> Tensor:
    x = torch.randn(shape)
    return x.contiguous(memory_format=layout) if x.dim() == 4 else x


def bilateral_propagation(batch: int, channels: int, size: int) -> Case:
    """On (batch,channels,size,size), with a gate."""
    return Case(
        "bilateral_propagation",
        f"C{channels} {size}², B {batch}",
        lambda layout: (_normal(batch, channels, size, size, layout=layout), torch.rand(batch, channels)),
        functional.bilateral_propagation,
        baselines.bilateral_propagation,
        BOTH,
    )


def local_fusion(batch: int, channels: int, size: int, draw: torch.Generator) -> Case:
    """Half of the positions of (batch,channels,size,size), two references."""
    pixels, selected = size * size, size * size // 2
    positions = torch.stack([torch.randperm(pixels, generator=draw)[:selected] for _ in range(batch)])
    return Case(
        "local_fusion",
        f"C{channels} {size}², B {batch}, 2 references, M {selected}",
        lambda layout: (
            _normal(batch, channels, size, size, layout=layout),
            _normal(batch, 2, channels, size, size),
            torch.rand(batch, 3).softmax(1),
        ),
        lambda base, references, weights: functional.local_fusion(base, references, weights, positions)[0],
        lambda base, references, weights: baselines.local_fusion(base, references, weights, positions),
        flops=2.0 * batch * 2 * channels * selected * pixels,
    )


def skip_decoder_block(batch: int, cx: int, cs: int, co: int, size: int) -> Case:
    """With a skip of the same size and a batch norm; the products are those of the four 2×2 phases."""
    return Case(
        "skip_decoder_block",
        f"{cx}+{cs}→{co}, {size}→{2 * size}², B {batch}, batch norm",
        lambda layout: (
            _normal(batch, cx, size, size, layout=layout),
            _normal(batch, cs, size, size, layout=layout),
            _normal(co, cx + cs, 3, 3, layout=layout) / (3 * (cx + cs) ** 0.5),
            *(_normal(co) for _ in range(3)),
        ),
        lambda x, s, w, b, g, h: functional.skip_decoder_block(
            x, s, w, b, norm="batch", norm_weight=g, norm_bias=h, training=True
        ),
        baselines.skip_decoder_block,
        BOTH,
        flops=3 * 2.0 * batch * (cx + cs) * co * 16 * size**2,
    )


def modulated_norm(batch: int, channels: int, size: int) -> Case:
    """Instance norm, modulated by two maps: the trunk of ECGAN."""
    return Case(
        "modulated_norm",
        f"C{channels} {size}², B {batch}, instance norm",
        lambda layout: [_normal(batch, channels, size, size, layout=layout) for _ in range(3)],
        functional.modulated_norm,
        baselines.modulated_norm,
        BOTH,
    )


def activated_conv2d(batch: int, channels: int, size: int) -> Case:
    """As many channels out as in; the products are those of the direct convolution."""
    return Case(
        "activated_conv2d",
        f"{channels}→{channels}, {size}², B {batch}",
        lambda layout: (
            _normal(batch, channels, size, size, layout=layout),
            _normal(channels, channels, 3, 3, layout=layout) / (3 * channels**0.5),
            _normal(channels),
        ),
        functional.activated_conv2d,
        baselines.activated_conv2d,
        BOTH,
        flops=3 * 2.0 * batch * channels**2 * 9 * size**2,
    )


def _layout(batch: int, classes: int, height: int, width: int, draw: torch.Generator) -> Tensor:
    """Labels in areas of some 16 pixels."""
    noise = torch.randn(batch, classes, max(height // 16, 2), max(width // 16, 2), generator=draw)
    return torch.nn.functional.interpolate(noise, (height, width), mode="bilinear").argmax(1)


def layout_conv2d(
    batch: int, classes: int, height: int, width: int, kernel: int, stride: int, draw: torch.Generator, *, bag: bool
) -> Case:
    """To 128 channels, with a bias and a leaky ReLU; against a convolution, or an embedding ``bag``."""
    labels, channels = _layout(batch, classes, height, width, draw), 128
    eager = baselines.layout_embedding_bag if bag else baselines.layout_conv2d
    return Case(
        "layout_conv2d",
        f"{classes} classes→{channels}, {height}×{width}, B {batch}, k {kernel}, stride {stride}",
        lambda layout: (
            _normal(channels, classes, kernel, kernel, layout=layout) / kernel,
            _normal(channels),
        ),
        lambda w, b: functional.layout_conv2d(labels, w, b, stride=stride, padding=1, activation="leaky_relu"),
        lambda w, b: eager(labels, w, b, stride=stride),
        compiled=not bag,
        twice=not bag,
        variant="against embedding_bag" if bag else "against conv2d",
    )


def similarity_loss(
    batch: int, classes: int, height: int, width: int, draw: torch.Generator, *, in_chunks: bool
) -> Case:
    """Of a softmax of random numbers; as in self-contrast, x is symmetric."""
    labels, pixels = _layout(batch, classes, height, width, draw), height * width
    eager = baselines.similarity_loss_in_chunks if in_chunks else baselines.similarity_loss
    return Case(
        "similarity_loss",
        f"{classes} classes, {height}×{width}, B {batch}",
        lambda layout: (_normal(batch, classes, height, width, layout=layout).mul(2).softmax(1),),
        lambda p: functional.similarity_loss(p, labels),
        lambda p: eager(p, labels),
        flops=2 * 2.0 * batch * pixels**2 * classes,
        compiled=not in_chunks,
        variant="against chunks" if in_chunks else "against the matrix",
    )


def contrastive_loss(n: int, d: int, draw: torch.Generator, *, own_keys: bool, in_chunks: bool = False) -> Case:
    """Self-contrast of (n,d), or with as many keys of their own; 19 classes, Zipf distributed.

    The products: s, s again, dQ and dK; in self-contrast s is symmetric, and dQ and dK are one. ``in_chunks`` only
    without own keys.
    """
    zipf = 1 / torch.arange(1, 20, dtype=torch.float64)
    labels, key_labels = (torch.multinomial(zipf, n, replacement=True, generator=draw) for _ in range(2))

    def call(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        if own_keys:
            return lambda q, k: function(q, labels, k, key_labels)
        return lambda q: function(q, labels)

    return Case(
        "contrastive_loss",
        f"N {n}, D {d}, 19 classes",
        lambda layout: tuple(_normal(n, d) for _ in range(2 if own_keys else 1)),
        call(functional.contrastive_loss),
        call(baselines.contrastive_loss_in_chunks if in_chunks else baselines.contrastive_loss),
        flops=(4 if own_keys else 2) * 2.0 * n * n * d,
        compiled=not in_chunks,
        variant="separate keys" if own_keys else "self",
    )


def consistency_loss(batch: int, pyramid: Sequence[tuple[int, int]]) -> Case:
    """Over all scales of a pyramid of (channels, size)."""
    scales = len(pyramid)
    return Case(
        "equalization_consistency_loss",
        f"{scales} scales up to {pyramid[-1][1]}², B {batch}",
        lambda layout: [_normal(batch, c, s, s, layout=layout) for _ in range(2) for c, s in pyramid],
        lambda *t: functional.equalization_consistency_loss(t[:scales], t[scales:]),
        lambda *t: baselines.equalization_consistency_loss(t[:scales], t[scales:]),
        BOTH,
    )


def equalization_fusion(batch: int, inputs: int, channels: int, size: int) -> Case:
    """Two maps of ``inputs`` channels to one of ``channels``."""
    squeezed = max(channels // 16, 4)
    shapes = ((channels, 2 * inputs), (channels,), (squeezed, channels), (squeezed,), (channels, squeezed), (channels,))
    return Case(
        "equalization_fusion",
        f"{inputs}+{inputs}→{channels}, {size}², B {batch}",
        lambda layout: (
            _normal(batch, inputs, size, size, layout=layout),
            _normal(batch, inputs, size, size, layout=layout),
            *(_normal(*s, 1, 1) / s[1] ** 0.5 if len(s) == 2 else _normal(*s) for s in shapes),
            _normal(channels, 2 * channels, 1, 1) / (2 * channels) ** 0.5,
        ),
        lambda *t: functional.equalization_fusion(*t, norm="instance"),
        baselines.equalization_fusion,
        BOTH,
        flops=3 * 2.0 * batch * size**2 * (2 * inputs * channels + 2 * channels**2),
    )
