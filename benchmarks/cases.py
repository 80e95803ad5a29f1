"""The problems measured: every operation at the shapes of the models (EqGAN at 128², B 8, K 3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pyeqgan import functional
from pyeqgan.benchmarks import baselines


@dataclass(frozen=True)
class Case:
    """One operation on one problem.

    ``make(layout)`` returns the differentiable tensors; ``ours`` and ``eager`` map them to a tensor whose gradients
    are taken. ``flops`` are those of the products of one forward and backward pass, 0 where there are none to speak of.
    """

    operation: str
    problem: str
    make: Callable[[torch.memory_format], Sequence[Tensor]]
    ours: Callable[..., Tensor]
    eager: Callable[..., Tensor]
    layouts: tuple[str, ...] = ("contiguous",)
    flops: float = 0.0


BOTH = ("contiguous", "channels_last")


def _normal(*shape: int, layout: torch.memory_format = torch.contiguous_format) -> Tensor:
    x = torch.randn(shape)
    return x.contiguous(memory_format=layout) if x.dim() == 4 else x


def cases() -> list[Case]:
    """All of them, the problems of benchmarks.md first."""
    found: list[Case] = []
    for channels, size in ((128, 32), (64, 64), (32, 128)):
        found.append(_bilateral(channels, size))
    for size in (8, 16, 32):
        found.append(_local_fusion(size))
    for cx, cs, co, size in ((128, 128, 128, 16), (128, 128, 64, 32), (64, 64, 32, 64)):
        found.append(_skip_decoder(cx, cs, co, size))
    for channels, size in ((128, 64), (256, 32), (512, 16)):
        found.append(_activated_conv(channels, size))
    for n, d in ((1024, 256), (2048, 128), (4096, 128), (8192, 64)):
        found += [_contrastive(n, d, own_keys=False), _contrastive(n, d, own_keys=True)]
    found.append(_consistency())
    for channels, size in ((128, 16), (128, 32), (64, 64), (32, 128)):
        found.append(_equalization(channels, size))
    return found


def _bilateral(channels: int, size: int) -> Case:
    return Case(
        "bilateral_propagation",
        f"C{channels} {size}², B 8",
        lambda layout: (_normal(8, channels, size, size, layout=layout), torch.rand(8, channels)),
        functional.bilateral_propagation,
        baselines.bilateral_propagation,
        BOTH,
    )


def _local_fusion(size: int) -> Case:
    positions = torch.stack([torch.randperm(size * size)[: size * size // 2] for _ in range(8)])
    return Case(
        "local_fusion",
        f"C128 {size}², B 8, 2 references, M {size * size // 2}",
        lambda layout: (
            _normal(8, 128, size, size, layout=layout),
            _normal(8, 2, 128, size, size),
            torch.rand(8, 3).softmax(1),
        ),
        lambda *t: functional.local_fusion(*t, positions)[0],
        lambda *t: baselines.local_fusion(*t, positions),
        ("contiguous",),
        2.0 * 8 * 2 * 128 * size**4 / 2,
    )


def _skip_decoder(cx: int, cs: int, co: int, size: int) -> Case:
    return Case(
        "skip_decoder_block",
        f"{cx}+{cs}→{co}, {size}→{2 * size}², B 8, batch norm",
        lambda layout: (
            _normal(8, cx, size, size, layout=layout),
            _normal(8, cs, size, size, layout=layout),
            _normal(co, cx + cs, 3, 3, layout=layout) / (3 * (cx + cs) ** 0.5),
            *(_normal(co) for _ in range(3)),
        ),
        lambda x, s, w, b, g, h: functional.skip_decoder_block(
            x, s, w, b, norm="batch", norm_weight=g, norm_bias=h, training=True
        ),
        baselines.skip_decoder_block,
        BOTH,
        3 * 2.0 * 8 * (cx + cs) * co * 16 * size**2,
    )


def _activated_conv(channels: int, size: int) -> Case:
    return Case(
        "activated_conv2d",
        f"{channels}→{channels}, {size}², B 8",
        lambda layout: (
            _normal(8, channels, size, size, layout=layout),
            _normal(channels, channels, 3, 3, layout=layout) / (3 * channels**0.5),
            _normal(channels),
        ),
        functional.activated_conv2d,
        baselines.activated_conv2d,
        BOTH,
        3 * 2.0 * 8 * channels**2 * 9 * size**2,
    )


def _contrastive(n: int, d: int, *, own_keys: bool) -> Case:
    zipf = 1 / torch.arange(1, 20, dtype=torch.float64)
    labels = torch.multinomial(zipf, n, replacement=True)
    key_labels = torch.multinomial(zipf, n, replacement=True)

    def call(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        if own_keys:
            return lambda q, k: function(q, labels, k, key_labels)
        return lambda q: function(q, labels)

    return Case(
        "contrastive_loss",
        f"N {n}, D {d}, 19 classes, {'separate keys' if own_keys else 'self'}",
        lambda layout: tuple(_normal(n, d) for _ in range(2 if own_keys else 1)),
        call(functional.contrastive_loss),
        call(baselines.contrastive_loss),
        ("contiguous",),
        (4 if own_keys else 2) * 2.0 * n * n * d,
    )


def _consistency() -> Case:
    shapes = [(8, 128, 16, 16), (8, 128, 32, 32), (8, 64, 64, 64), (8, 32, 128, 128)]
    return Case(
        "equalization_consistency_loss",
        "four scales of 128², B 8",
        lambda layout: [_normal(*s, layout=layout) for _ in range(2) for s in shapes],
        lambda *t: functional.equalization_consistency_loss(t[:4], t[4:]),
        lambda *t: baselines.equalization_consistency_loss(t[:4], t[4:]),
        BOTH,
    )


def _equalization(channels: int, size: int) -> Case:
    squeezed = max(channels // 16, 4)
    shapes = ((channels, 256), (channels,), (squeezed, channels), (squeezed,), (channels, squeezed), (channels,))
    return Case(
        "equalization_fusion",
        f"128+128→{channels}, {size}², B 8",
        lambda layout: (
            _normal(8, 128, size, size, layout=layout),
            _normal(8, 128, size, size, layout=layout),
            *(_normal(*s, 1, 1) / s[1] ** 0.5 if len(s) == 2 else _normal(*s) for s in shapes),
            _normal(channels, 2 * channels, 1, 1) / (2 * channels) ** 0.5,
        ),
        lambda *t: functional.equalization_fusion(*t, norm="instance"),
        baselines.equalization_fusion,
        BOTH,
        3 * 2.0 * 8 * size**2 * (256 * channels + 2 * channels**2),
    )
