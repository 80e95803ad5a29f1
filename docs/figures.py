"""The figures of the operations' pages, made by the operations themselves: ``python docs/figures.py [NAME …]``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import torch
import torch.nn.functional as tf
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from pyeqgan import functional as F
from pyeqgan.data import SyntheticFlowers, to_tensor

FOLDER = Path(__file__).parent / "operations"
DRAWINGS: dict[str, Callable[[], Figure]] = {}
PINK, GREY, GREEN = "#b5446e", "#8d99ae", "#4c956c"
mpl.rcParams.update({"font.size": 9, "axes.titlesize": 9, "axes.spines.top": False, "axes.spines.right": False})


def draws(operation: Callable[..., object]) -> Callable[[Callable[[], Figure]], Callable[[], Figure]]:
    """Register the drawing of an operation."""

    def register(drawing: Callable[[], Figure]) -> Callable[[], Figure]:
        DRAWINGS[operation.__name__] = drawing
        return drawing

    return register


def flowers(species: int, count: int, size: int = 64) -> Tensor:
    """Images of one embedded species, (count,3,size,size) in [-1, 1]."""
    data = SyntheticFlowers(species + 1, count, size, seed=0)
    return torch.stack([to_tensor(data.image(species, index)[None])[0] for index in range(count)])


def pixels(image: Tensor) -> Tensor:
    """(3,H,W) in [-1, 1] as (H,W,3) in [0, 1]."""
    return (image.movedim(0, -1) / 2 + 0.5).clamp(0, 1)


def panels(titles: list[str], images: list[Tensor], *, width: float = 2.0, **show: object) -> Figure:
    """Images side by side, each under its title; (3,H,W), or (H,W) in false colours."""
    figure = Figure(figsize=(width * len(images), width + 0.35), layout="constrained")
    for axes, title, image in zip(figure.subplots(1, len(images), squeeze=False)[0], titles, images, strict=True):
        axes.imshow(pixels(image) if image.dim() == 3 else image, **({} if image.dim() == 3 else show))
        axes.set_title(title)
        axes.set_axis_off()
    return figure


def chosen_positions(side: int, rate: float = 0.5) -> Tensor:
    """Some positions of a grid, (1,M)."""
    generator = torch.Generator().manual_seed(1)
    return torch.rand(1, side * side, generator=generator).argsort(1)[:, : int(rate * side * side)]


def patches(images: Tensor, side: int) -> Tensor:
    """Images (N,3,S,S) as maps of their patches' pixels, (N,3·s²,side,side): features one can look at."""
    return tf.pixel_unshuffle(images, images.shape[-1] // side)


@draws(F.local_fusion)
def local_fusion() -> Figure:
    """Patches of one flower replaced by blends with their best matches in two others."""
    images, side = flowers(3, 3), 16
    positions, weights = chosen_positions(side), torch.tensor([[0.2, 0.4, 0.4]])
    maps = patches(images, side)
    fused, _ = F.local_fusion(maps[:1], maps[None, 1:], weights, positions)
    marked = images[0].clone()
    mask = torch.zeros(side * side).scatter(0, positions[0], 1).view(side, side)
    marked = torch.where(tf.interpolate(mask[None, None], size=64)[0] > 0, marked, marked * 0.4 + 0.6)
    titles = ["base", "selected patches", "reference 1", "reference 2", "fused"]
    return panels(titles, [images[0], marked, images[1], images[2], tf.pixel_shuffle(fused, 4)[0]], width=1.6)


@draws(F.lifted_fusion)
def lifted_fusion() -> Figure:
    """Matches found on an 8² grid, applied on it and on the whole image."""
    images, side = flowers(9, 3), 8
    positions, weights = chosen_positions(side, 0.6), torch.tensor([[0.2, 0.4, 0.4]])
    coarse = tf.avg_pool2d(images, 8)
    fused, matches = F.local_fusion(coarse[:1], coarse[None, 1:], weights, positions)
    lifted = F.lifted_fusion(images[:1], images[None, 1:], weights, positions, matches, (side, side))
    titles = ["base", "reference 1", "reference 2", "fused on 8²", "the same, lifted to 64²"]
    return panels(titles, [*images, fused[0], lifted[0]], width=1.6)


@draws(F.bilateral_propagation)
def bilateral_propagation() -> Figure:
    """An image with noise, smoothed in space and among neighbours that resemble each other."""
    generator = torch.Generator().manual_seed(0)
    image = flowers(5, 1)
    noisy = image + 0.25 * torch.randn(image.shape, generator=generator)
    spatial, ranged = F.bilateral_propagation(noisy * 4, sigma=1.5).chunk(2, 1)
    return panels(["x", "spatial half of y", "range half of y"], [noisy[0], spatial[0] / 4, ranged[0] / 4], width=2.4)


@draws(F.equalization_fusion)
def equalization_fusion() -> Figure:
    """Structure and texture of two flowers in one map, with random weights: what goes in and what comes out."""
    generator = torch.Generator().manual_seed(4)
    structure = tf.interpolate(tf.avg_pool2d(flowers(3, 1), 8), size=64, mode="bilinear")
    texture = flowers(7, 1)

    def weight(*shape: int) -> Tensor:
        return torch.randn(*shape, 1, 1, generator=generator) / shape[-1] ** 0.5

    parameters = (weight(16, 6), None, weight(4, 16), None, weight(16, 4), None, weight(3, 32))
    equalized = F.equalization_fusion(structure, texture, *parameters)
    low, high = equalized.amin((2, 3), keepdim=True), equalized.amax((2, 3), keepdim=True)
    shown = (equalized - low) / (high - low) * 2 - 1
    return panels(
        ["structure", "texture", "equalized, random weights"], [structure[0], texture[0], shown[0]], width=2.4
    )


@draws(F.equalization_consistency_loss)
def equalization_consistency_loss() -> Figure:
    """Where two maps disagree: the loss's gradient, and the loss as one map fades into another."""
    one, other = flowers(3, 1), flowers(7, 1)
    shares = torch.linspace(0, 1, 21)
    figure = Figure(figsize=(7.2, 2.6), layout="constrained")
    curve, where = figure.subplots(1, 2, width_ratios=[1.6, 1])
    for distance, colour in (("cosine", PINK), ("l1", GREY), ("l2", GREEN)):
        values = [F.equalization_consistency_loss([one], [one.lerp(other, s)], distance=distance) for s in shares]
        curve.plot(shares, torch.stack(values), label=distance, color=colour)
    curve.set(xlabel="share of the other map", ylabel="loss")
    curve.legend(frameon=False)
    decoded = other.clone().requires_grad_()
    F.equalization_consistency_loss([one], [decoded], distance="l2").backward()
    where.imshow(decoded.grad[0].norm(dim=0), cmap="magma")
    where.set_title("size of the gradient (l2)")
    where.set_axis_off()
    return figure


@draws(F.skip_decoder_block)
def skip_decoder_block() -> Figure:
    """The 3×3 weights that each of the four output phases merges into 2×2."""
    weight = torch.arange(1.0, 10).view(1, 1, 3, 3)
    impulses = torch.eye(25).view(25, 1, 5, 5)
    answers = F.skip_decoder_block(impulses, None, weight, activation=None)[:, 0, 4:6, 4:6]
    figure = Figure(figsize=(7.2, 2.1), layout="constrained")
    axes = figure.subplots(1, 5)
    _numbers(axes[0], weight[0, 0], "3×3 weights")
    for index, (row, column) in enumerate((r, c) for r in range(2) for c in range(2)):
        merged = answers[:, row, column].view(5, 5)[1 + row : 3 + row, 1 + column : 3 + column]
        _numbers(axes[index + 1], merged, f"phase ({row}, {column})")
    return figure


@draws(F.modulated_norm)
def modulated_norm() -> Figure:
    """A flower whose pixels take the contrast and the brightness that their class in a layout says."""
    generator = torch.Generator().manual_seed(2)
    image = flowers(5, 1)
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, 64)] * 2, indexing="ij")
    labels = (x + 0.4 * y > 0).long() + (x**2 + y**2 < 0.35).long()
    gamma, beta = (0.6 * torch.randn(2, 3, 3, generator=generator))[:, labels].movedim(-1, 1)[:, None]
    modulated = F.modulated_norm(image, gamma, beta, activation=None)
    titles, maps = ["x", "layout", "gamma", "beta", "y"], [labels.float(), *(m[0, 0] for m in (gamma, beta))]
    return panels(titles, [image[0], *maps, modulated[0] / 2], width=1.6, cmap="RdPu")


@draws(F.activated_conv2d)
def activated_conv2d() -> Figure:
    """What the eager chain and the operation save for backward."""
    x, weight = torch.randn(1, 64, 64, 64, requires_grad=True), torch.randn(64, 64, 3, 3, requires_grad=True)

    def eager() -> Tensor:
        return tf.conv2d(tf.pad(tf.leaky_relu(x, 0.2), (1, 1, 1, 1), mode="reflect"), weight)

    sizes = [_saved(call) / 2**20 for call in (eager, lambda: F.activated_conv2d(x, weight))]
    figure = Figure(figsize=(6, 1.5), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh(["eager chain", "activated_conv2d"], sizes, color=[GREY, PINK])
    axes.bar_label(bars, fmt="%.1f MiB", padding=4)
    axes.invert_yaxis()
    axes.set(xlabel="saved for backward: 64 channels, 64², one image", xlim=(0, max(sizes) * 1.25))
    return figure


def layout(side: int) -> Tensor:
    """A layout of four classes in areas, (side,side)."""
    noise = torch.randn(1, 4, 5, 5, generator=torch.Generator().manual_seed(7))
    return tf.interpolate(noise, size=(side, side), mode="bicubic").argmax(1)[0]


@draws(F.layout_conv2d)
def layout_conv2d() -> Figure:
    """A layout, one channel of its convolution, and the windows that are not like the one to their left."""
    labels = layout(48)
    weight = torch.randn(1, 4, 3, 3, generator=torch.Generator().manual_seed(2))
    y = F.layout_conv2d(labels[None], weight, padding=1)[0, 0]
    windows = tf.pad(labels, (1, 1, 1, 1), value=-1).unfold(0, 3, 1).unfold(1, 3, 1).flatten(2)
    new = tf.pad((windows[:, 1:] != windows[:, :-1]).any(2), (1, 0), value=True)
    titles = ["labels", "one channel of y", f"new windows: {new.float().mean():.0%}"]
    return panels(titles, [labels.float(), y, new.float()], width=2.2, cmap="RdPu")


@draws(F.similarity_loss)
def similarity_loss() -> Figure:
    """What descending the loss makes of a segmenter's noisy probabilities."""
    labels = layout(24)
    noise = torch.randn(1, 4, 24, 24, generator=torch.Generator().manual_seed(1))
    truth = tf.one_hot(labels, 4).permute(2, 0, 1)[None]
    logits = (truth + noise).requires_grad_()
    before = logits.detach().softmax(1)
    loss = F.similarity_loss(logits.softmax(1), labels[None])
    (grad,) = torch.autograd.grad(loss, logits)
    optimizer = torch.optim.Adam([logits], 0.05)
    for _ in range(60):
        optimizer.zero_grad()
        F.similarity_loss(logits.softmax(1), labels[None]).backward()
        optimizer.step()
    after = logits.detach().softmax(1)
    shown = [labels.float(), before[0].argmax(0).float(), grad[0].norm(dim=0), after[0].argmax(0).float()]
    titles = ["labels", "likeliest class", "size of the gradient", "after 60 steps"]
    return panels(titles, shown, width=1.8, cmap="RdPu")


@draws(F.contrastive_loss)
def contrastive_loss() -> Figure:
    """Three classes on a circle, before and after descending each mode of the loss."""
    generator = torch.Generator().manual_seed(3)
    start = torch.randn(90, 2, generator=generator)
    labels = torch.arange(90) % 3
    figure = Figure(figsize=(7.2, 2.6), layout="constrained")
    ends = {"before": start, **{mode: _descend(start, labels, mode) for mode in ("supcon", "per_positive")}}
    for axes, (title, rows) in zip(figure.subplots(1, 3), ends.items(), strict=True):
        points = tf.normalize(rows)
        axes.scatter(*points.T, c=[(PINK, GREY, GREEN)[label] for label in labels], s=14, alpha=0.7)
        axes.set(title=title, xlim=(-1.2, 1.2), ylim=(-1.2, 1.2), aspect="equal")
        axes.set_axis_off()
    return figure


@draws(F.multiscale_contrastive_loss)
def multiscale_contrastive_loss() -> Figure:
    """Labels as each scale sees them, and the pixels that a limit leaves."""
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, 64)] * 2, indexing="ij")
    labels = ((x**2 + y**2 < 0.55).long() + (x**2 + (y + 0.1) ** 2 < 0.08).long())[None]
    shown = [labels[0].float()]
    for size in (32, 16, 8):
        rows = torch.arange(size) * 64 // size
        shown.append(labels[0][rows][:, rows].float())
    return panels(["labels 64²", "at 32²", "at 16²", "at 8²"], shown, width=1.8, cmap="RdPu", vmin=0, vmax=2.6)


def _descend(rows: Tensor, labels: Tensor, mode: str) -> Tensor:
    rows = rows.clone().requires_grad_()
    optimizer = torch.optim.Adam([rows], 0.05)
    for _ in range(150):
        optimizer.zero_grad()
        F.contrastive_loss(rows, labels, temperature=0.2, mode=mode).backward()
        optimizer.step()
    return rows.detach()


def _saved(call: Callable[[], Tensor]) -> int:
    """Bytes of the tensors that autograd keeps, each storage once."""
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = call()
    assert result.requires_grad
    return sum(storages.values())


def _numbers(axes: Axes, values: Tensor, title: str) -> None:
    axes.imshow(values, cmap="RdPu", vmin=0, vmax=45)
    for (row, column), value in zip(
        torch.cartesian_prod(*map(torch.arange, values.shape)), values.flatten(), strict=True
    ):
        axes.text(column, row, f"{value:g}", ha="center", va="center")
    axes.set_title(title)
    axes.set_axis_off()


def main(names: list[str]) -> None:
    """Draw the figures of these operations, of all without names."""
    for name in names or DRAWINGS:
        DRAWINGS[name]().savefig(FOLDER / f"{name}.png", dpi=96)


if __name__ == "__main__":
    main(sys.argv[1:])
