"""``similarity_loss``: pixels of one class are to look alike to a segmenter, others not (ECGAN, ICLR 2023)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyeqgan import reference
from pyeqgan.ops import _checks as check
from pyeqgan.ops import _library as library

NAME = "similarity_loss"
SMALLEST_EPS = torch.finfo(torch.float32).eps  # with less, 1 − eps is 1 in float32
BLOCK_PAIRS = 1 << 21  # that live at a time in the second derivative


def similarity_loss(probabilities: Tensor, labels: Tensor, *, ignore_index: int = -1, eps: float = 1e-6) -> Tensor:
    """Compare the similarity of every pair of pixels of an image with whether they are of one class.

    With p_m the vector of class probabilities at pixel m, x_mn = p_m·p_n clamped to [eps, 1−eps] and a_mn = [labels
    equal], the loss is the mean over images of

        (1/M²) Σ_mn −(a_mn·log x_mn + (1−a_mn)·log(1−x_mn))

    over all ordered pairs of the M pixels that are not ignored, m = n included. Images without such a pixel are not
    counted.

    Args:
        probabilities: (B,Nc,H,W), float32, float64, bfloat16 or float16; any strides. Typically a softmax; nothing
            depends on their sum being 1.
        labels: (B,H,W) int64, any integers; ``ignore_index`` marks pixels to leave out.
        ignore_index: the label that marks ignored pixels.
        eps: of the clamp; in [2⁻²³, 0.5). Where it clamps, the gradient is 0.

    Returns:
        A 0-d tensor, float32 (float64 for float64 input); 0, attached to the graph, if all pixels are ignored.
        Differentiable twice in the probabilities. Saved for backward: the arguments. No kernel holds an M×M tensor,
        and half of the M² products suffice, as x is symmetric. The second derivative is composed for some rows of x
        at a time, of 2²¹ pairs: a dozen tensors of 8 MB live at once, where those of the whole x would take 4·M²
        bytes each.

    Raises:
        TypeError: an argument is not a tensor or has another dtype.
        ValueError: a wrong rank, size or device, or eps not in [2⁻²³, 0.5).
        NotImplementedError: forward-mode differentiation.

    Source: Tang et al., "Edge Guided GANs with Multi-Scale Contrastive Learning for Semantic Image Synthesis", ICLR
    2023, pixel-wise similarity loss. The clamp and the images that are not counted are (ours).
    """
    check.tensor(NAME, "probabilities", probabilities, shape=("B", "Nc", "H", "W"))
    batch, _, height, width = probabilities.shape
    check.tensor(NAME, "labels", labels, shape=(batch, height, width), dtype=torch.int64, device=probabilities.device)
    check.integer(NAME, "ignore_index", ignore_index)
    eps = check.number(NAME, "eps", eps)
    if not SMALLEST_EPS <= eps < 0.5:
        check.fail(NAME, "eps", f"a number in [{SMALLEST_EPS:.3g}, 0.5)", eps)
    check.no_forward_mode(NAME, probabilities)
    loss: Tensor = torch.ops.pyeqgan.similarity_loss.default(probabilities, labels, ignore_index, eps)
    return loss


def _oracle(probabilities: Tensor, labels: Tensor, ignore_index: int, eps: float) -> Tensor:
    return reference.similarity_loss(probabilities, labels, ignore_index=ignore_index, eps=eps)


def _fake(probabilities: Tensor, labels: Tensor, ignore_index: int, eps: float) -> Tensor:
    return probabilities.new_empty((), dtype=reference.accumulation_dtype(probabilities.dtype))


def _backward_of_rows(
    rows: slice, grad_loss: Tensor, probabilities: Tensor, labels: Tensor, ignore_index: int, eps: float
) -> Tensor:
    (grad,) = library.composed_backward(
        lambda p: reference.similarity_of_rows(rows, p, labels, ignore_index, eps),
        (probabilities,),
        (grad_loss,),
        (True,),
    )
    return grad.contiguous(memory_format=library.memory_format_of(probabilities))


def _backward_oracle(grad_loss: Tensor, probabilities: Tensor, labels: Tensor, ignore_index: int, eps: float) -> Tensor:
    return _backward_of_rows(slice(None), grad_loss, probabilities, labels, ignore_index, eps)


def _backward_fake(grad_loss: Tensor, probabilities: Tensor, labels: Tensor, ignore_index: int, eps: float) -> Tensor:
    return library.empty_image(probabilities, probabilities.shape[1])


library.define(
    f"{NAME}(Tensor probabilities, Tensor labels, int ignore_index, float eps) -> Tensor",
    oracle=_oracle,
    fake=_fake,
)
library.define(
    f"{NAME}_backward(Tensor grad_loss, Tensor probabilities, Tensor labels, int ignore_index, float eps) -> Tensor",
    oracle=_backward_oracle,
    fake=_backward_fake,
)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    probabilities, labels, ctx.ignore_index, ctx.eps = inputs
    ctx.save_for_backward(probabilities, labels)


def _backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
    grad = torch.ops.pyeqgan.similarity_loss_backward.default(grad_loss, *ctx.saved_tensors, ctx.ignore_index, ctx.eps)
    return grad, None, None, None


def _setup_second_order(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    grad_loss, probabilities, labels, ctx.ignore_index, ctx.eps = inputs
    ctx.save_for_backward(grad_loss, probabilities, labels)


def _second_order(ctx: Any, direction: Tensor) -> tuple[Tensor | None, ...]:
    """The derivative of the backward: its result is a sum over rows of x, and so is every derivative of it."""
    grad_loss, probabilities, labels = ctx.saved_tensors
    pixels = labels[:1].numel()
    size = max(BLOCK_PAIRS // max(labels.numel(), 1), 1)
    found = library.vjp_of_sum(
        (
            lambda g, p, rows=slice(start, start + size): _backward_of_rows(
                rows, g, p, labels, ctx.ignore_index, ctx.eps
            )
            for start in range(0, pixels, size)
        ),
        (grad_loss, probabilities),
        (direction,),
        ctx.needs_input_grad[:2],
    )
    return *found, None, None, None


library.differentiate(NAME, _backward, _setup_context)
library.differentiate(f"{NAME}_backward", _second_order, _setup_second_order)
