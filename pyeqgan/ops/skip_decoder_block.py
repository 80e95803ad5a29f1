"""``skip_decoder_block``: upsample, join a skip connection, convolve, normalise and activate."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyeqgan import reference
from pyeqgan.ops import _checks as check
from pyeqgan.ops import _library as library
from pyeqgan.ops import _norm
from pyeqgan.ops._graph import asked_for

NAME = "skip_decoder_block"


def skip_decoder_block(
    x: Tensor,
    skip: Tensor | None,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    norm: str | None = None,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    activation: str | None = "leaky_relu",
    negative_slope: float = 0.2,
) -> Tensor:
    """One decoder block: y = act(norm(conv3×3(reflect_pad1(cat[up2(x), skip or up2(skip)]), weight, bias))).

    up2 is nearest-neighbour upsampling by two. A 3×3 convolution after it, with reflect padding, equals four 2×2
    convolutions on the low-resolution map with replicate padding, one for each output phase, their weights merged
    from the 3×3: 2.25× fewer multiplications, and nothing upsampled, concatenated or padded need exist. The CPU
    kernel shares the products of the four phases too: along one axis, with neighbours a, b, c and taps g, the two
    outputs are (g0+g1+g2)·b + g0·(a−b) and (g0+g1+g2)·b + g2·(c−b), so three products serve both, nine a pixel of x
    serve its four outputs, 4× fewer (ours; it is Winograd's F(2×2, 3×3) where 7 of its 16 points vanish).

    Args:
        x: (B,Cx,H,W), float32, float64, bfloat16 or float16; any strides, H, W ≥ 1.
        skip: None, or (B,Cs,H,W) to be joined before upsampling, or (B,Cs,2H,2W) to be joined after it.
        weight: (Co,Cx+Cs,3,3) in the dtype of x, input channels in the order [x, skip].
        bias: (Co,) or None.
        norm: None, "batch" or "instance".
        norm_weight, norm_bias: (Co,) affine parameters of the norm, or None; dtype of x or float32.
        running_mean, running_var: (Co,) statistics of a batch norm, updated in place when training (the variance
            unbiased), used when not training; dtype of x or float32. Not for instance norm.
        training: whether a batch norm uses the batch's statistics.
        momentum: share of the new statistics in the running ones, in [0, 1].
        eps: added to the variance; ≥ 0.
        activation: None, "relu", "leaky_relu" or "tanh".
        negative_slope: of the leaky ReLU; ≥ 0.

    Returns:
        (B,Co,2H,2W) in the dtype and memory format of x. Differentiable twice in x, skip, weight, bias, norm_weight
        and norm_bias. Saved for backward: x, skip, weight, the norm's statistics and one tensor of the output's
        size (the convolution's result where there is a norm, y itself where there is none).

    Raises:
        TypeError: an argument is not a tensor or has another dtype.
        ValueError: a wrong rank, size or device, an unknown norm or activation, running statistics missing in
            evaluation or given for an instance norm, or numbers out of range.
        NotImplementedError: forward-mode differentiation.

    Source: the decoder of LoFGAN (ICCV 2021) with U-Net skips; the decomposition is the sub-pixel identity of
    Shi et al. (2016) for nearest upsampling.
    """
    check.tensor(NAME, "x", x, shape=("B", "Cx", "H", "W"))
    x, skip, weight, bias = library.autocast(x, skip, weight, bias)
    batch, channels, height, width = x.shape
    if height < 1 or width < 1:
        check.fail(NAME, "x", "H and W >= 1", f"shape {tuple(x.shape)}")
    if skip is not None:
        check.tensor(NAME, "skip", skip, shape=(batch, "Cs", "H", "W"), dtype=x.dtype, device=x.device)
        if tuple(skip.shape[2:]) not in ((height, width), (2 * height, 2 * width)):
            check.fail(
                NAME,
                "skip",
                f"size ({height}, {width}) or ({2 * height}, {2 * width})",
                f"size {tuple(skip.shape[2:])}",
            )
        channels = channels + skip.shape[1]
    check.tensor(NAME, "weight", weight, shape=("Co", channels, 3, 3), dtype=x.dtype, device=x.device)
    check.not_empty(NAME, "weight", weight)
    features = weight.shape[0]
    if bias is not None:
        check.tensor(NAME, "bias", bias, shape=(features,), dtype=x.dtype, device=x.device)
    check.choice(NAME, "activation", activation, (None, "relu", "leaky_relu", "tanh"))
    negative_slope = check.number(NAME, "negative_slope", negative_slope, minimum=0)
    momentum, eps = _norm.check_norm(
        NAME, norm, features, x, norm_weight, norm_bias, running_mean, running_var, training, momentum, eps
    )
    check.no_forward_mode(NAME, x, skip, weight, bias, norm_weight, norm_bias)
    y, _, mean, var = torch.ops.pyeqgan.skip_decoder_block.default(
        x,
        skip,
        weight,
        bias,
        norm,
        norm_weight,
        norm_bias,
        running_mean,
        running_var,
        training,
        eps,
        activation,
        negative_slope,
    )
    if norm == "batch" and training:
        count = batch * 4 * height * width
        reference.update_running_statistics(running_mean, running_var, mean, var, momentum, count)
    return y  # type: ignore[no-any-return]


def _oracle(
    x: Tensor,
    skip: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    norm: str | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    eps: float,
    activation: str | None,
    negative_slope: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    form = library.memory_format_of(x)
    y, pre, mean, var = reference.skip_decoder_block_with_statistics(
        x,
        skip,
        weight,
        bias,
        norm=norm,
        norm_weight=norm_weight,
        norm_bias=norm_bias,
        running_mean=running_mean,
        running_var=running_var,
        training=training,
        eps=eps,
        activation=activation,
        negative_slope=negative_slope,
    )
    pre = x.new_empty(0) if norm is None else pre.to(x.dtype).contiguous(memory_format=form)
    # Statistics that are the running ones must not alias them: the op promises fresh outputs.
    return y.contiguous(memory_format=form), pre, mean.clone(), var.clone()


def _fake(
    x: Tensor,
    skip: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    norm: str | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    eps: float,
    activation: str | None,
    negative_slope: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    features = weight.shape[0]

    def output() -> Tensor:
        return library.empty_image(x, features, 2 * x.shape[2], 2 * x.shape[3])

    pre = x.new_empty(0) if norm is None else output()
    mean, var = (_norm.empty_statistics(x, norm, features) for _ in range(2))
    return output(), pre, mean, var


def _backward_oracle(
    grad_y: Tensor,
    x: Tensor,
    skip: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    norm: str | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    saved: Tensor,
    mean: Tensor,
    var: Tensor,
    training: bool,
    eps: float,
    activation: str | None,
    negative_slope: float,
    need_x: bool,
    need_skip: bool,
    need_weight: bool,
    need_bias: bool,
    need_norm_weight: bool,
    need_norm_bias: bool,
) -> tuple[Tensor, ...]:
    def forward(*inputs: Tensor | None) -> Tensor:
        x, skip, weight, bias, norm_weight, norm_bias = inputs
        y: Tensor = reference.skip_decoder_block_with_statistics(
            x,  # type: ignore[arg-type]
            skip,
            weight,  # type: ignore[arg-type]
            bias,
            norm=norm,
            norm_weight=norm_weight,
            norm_bias=norm_bias,
            running_mean=mean,
            running_var=var,
            training=training,
            eps=eps,
            activation=activation,
            negative_slope=negative_slope,
        )[0]
        return y

    needs = (need_x, need_skip, need_weight, need_bias, need_norm_weight, need_norm_bias)
    inputs = (x, skip, weight, bias, norm_weight, norm_bias)
    grads = list(library.composed_backward(forward, inputs, (grad_y,), needs))
    for i, like in enumerate((x, skip)):
        if needs[i]:
            grads[i] = grads[i].contiguous(memory_format=library.memory_format_of(like))  # type: ignore[arg-type]
    return *grads[:2], *(g.contiguous() for g in grads[2:])


def _backward_fake(
    grad_y: Tensor,
    x: Tensor,
    skip: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    norm: str | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    saved: Tensor,
    mean: Tensor,
    var: Tensor,
    training: bool,
    eps: float,
    activation: str | None,
    negative_slope: float,
    need_x: bool,
    need_skip: bool,
    need_weight: bool,
    need_bias: bool,
    need_norm_weight: bool,
    need_norm_bias: bool,
) -> tuple[Tensor, ...]:
    empty = x.new_empty
    return (
        library.empty_image(x, x.shape[1]) if need_x else empty(0),
        library.empty_image(skip, skip.shape[1]) if need_skip and skip is not None else empty(0),
        empty(weight.shape) if need_weight else empty(0),
        empty(weight.shape[:1]) if need_bias else empty(0),
        norm_weight.new_empty(norm_weight.shape) if need_norm_weight and norm_weight is not None else empty(0),
        norm_bias.new_empty(norm_bias.shape) if need_norm_bias and norm_bias is not None else empty(0),
    )


library.define(
    f"{NAME}(Tensor x, Tensor? skip, Tensor weight, Tensor? bias, str? norm, Tensor? norm_weight, "
    "Tensor? norm_bias, Tensor? running_mean, Tensor? running_var, bool training, float eps, str? activation, "
    "float negative_slope) -> (Tensor y, Tensor pre, Tensor mean, Tensor var)",
    oracle=_oracle,
    fake=_fake,
)
library.define(
    f"{NAME}_backward(Tensor grad_y, Tensor x, Tensor? skip, Tensor weight, Tensor? bias, str? norm, "
    "Tensor? norm_weight, Tensor? norm_bias, Tensor saved, Tensor mean, Tensor var, bool training, float eps, "
    "str? activation, float negative_slope, bool need_x, bool need_skip, bool need_weight, bool need_bias, "
    "bool need_norm_weight, bool need_norm_bias) -> (Tensor grad_x, Tensor grad_skip, Tensor grad_weight, "
    "Tensor grad_bias, Tensor grad_norm_weight, Tensor grad_norm_bias)",
    oracle=_backward_oracle,
    fake=_backward_fake,
)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, skip, weight, bias, norm, norm_weight, norm_bias, _, _, *ctx.numbers = inputs
    y, pre, mean, var = output
    ctx.norm = norm
    ctx.save_for_backward(x, skip, weight, bias, norm_weight, norm_bias, y if norm is None else pre, mean, var)
    ctx.mark_non_differentiable(pre, mean, var)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad_y: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad_y is None:
        return (None,) * 13
    x, skip, weight, bias, norm_weight, norm_bias, saved, mean, var = ctx.saved_tensors
    asked = asked_for(ctx)
    needs = [asked[i] for i in (0, 1, 2, 3, 5, 6)]
    grads = torch.ops.pyeqgan.skip_decoder_block_backward.default(
        grad_y,
        x,
        skip,
        weight,
        bias,
        ctx.norm,
        norm_weight,
        norm_bias,
        saved,
        mean,
        var,
        *ctx.numbers,
        *needs,
    )
    dx, dskip, dweight, dbias, dnorm_weight, dnorm_bias = map(library.optional, grads, needs)
    return dx, dskip, dweight, dbias, None, dnorm_weight, dnorm_bias, *(None,) * 6


library.differentiate(NAME, _backward, _setup_context)
library.differentiate_composed(f"{NAME}_backward")
