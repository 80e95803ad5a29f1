"""``local_fusion``: replace selected positions of one image's features by a blend with their best matches."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyeqgan import reference
from pyeqgan.ops import _checks as check
from pyeqgan.ops import _library as library

NAME = "local_fusion"


def local_fusion(base: Tensor, references: Tensor, weights: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Few-shot local fusion: blend selected positions with the most similar position of every reference.

    For a selected position p and a reference r, m_r(p) = argmax_q ⟨base_p, ref_r,q / max(‖ref_r,q‖, 1e-12)⟩ (the
    lowest q of a tie), and fused_p = w_0·base_p + Σ_r w_{r+1}·ref_r[m_r(p)]; elsewhere fused_p = base_p.

    Args:
        base: (B,C,H,W), float32, float64, bfloat16 or float16; any strides.
        references: (B,R,C,H,W) in the dtype of base, R ≥ 0.
        weights: (B,R+1) in the dtype of base, column 0 for the base. They need not sum to 1.
        positions: (B,M) int64, distinct in each row, in [0, H·W).

    Returns:
        fused (B,C,H,W) in the dtype and memory format of base, and matches (B,R,M) int64. Differentiable twice in
        base, references and weights; no gradient passes through the argmax or the positions. Saved for backward:
        base, references, weights, positions and matches. The (M × H·W) similarity is never stored by a kernel.

    Raises:
        TypeError: an argument is not a tensor or has another dtype.
        ValueError: a wrong rank, size or device; a position out of range or repeated (on the CPU; on a GPU, where
            looking would synchronise, they are the caller's promise).
        NotImplementedError: forward-mode differentiation.

    Source: Gu et al., "LoFGAN: Fusing Local Representations for Few-shot Image Generation", ICCV 2021, section 3.2.
    """
    check.tensor(NAME, "base", base, shape=("B", "C", "H", "W"))
    base, references, weights = check_blend(NAME, base, references, weights)
    batch, channels, height, width = base.shape
    check.tensor(
        NAME,
        "references",
        references,
        shape=(batch, "R", channels, height, width),
        dtype=base.dtype,
        device=base.device,
    )
    check_positions(NAME, positions, base, height * width)
    check.no_forward_mode(NAME, base, references, weights)
    fused, matches = torch.ops.pyeqgan.local_fusion.default(base, references, weights, positions)
    return fused, matches


def check_blend(op: str, base: Tensor, references: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Check what both fusions share, after casting to the autocast dtype where autocast is on."""
    check.tensor(op, "references", references, shape=("B", "R", "C", "H", "W"))
    check.tensor(op, "weights", weights, shape=("B", "R+1"))
    base, references, weights = library.autocast(base, references, weights)
    count = references.shape[1] + 1
    check.tensor(op, "weights", weights, shape=(base.shape[0], count), dtype=base.dtype, device=base.device)
    return base, references, weights


def check_positions(op: str, positions: Tensor, base: Tensor, size: int) -> None:
    """Check the selected positions: (B,M) int64 in [0, size), distinct in each row."""
    check.tensor(op, "positions", positions, shape=(base.shape[0], "M"), dtype=torch.int64, device=base.device)
    if not check.readable(positions) or not positions.numel():
        return
    low, high = (int(p) for p in positions.aminmax())
    if low < 0 or high >= size:
        check.fail(op, "positions", f"values in [0, {size})", f"{low}..{high}")
    ordered = positions.sort(1).values
    if (ordered[:, 1:] == ordered[:, :-1]).any():
        check.fail(op, "positions", "distinct values in each row", "a repeated one")


def _oracle(base: Tensor, references: Tensor, weights: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    fused, matches = reference.local_fusion(base, references, weights, positions)
    return fused.contiguous(memory_format=library.memory_format_of(base)), matches


def _fake(base: Tensor, references: Tensor, weights: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    matches = positions.new_empty((base.shape[0], references.shape[1], positions.shape[1]))
    return library.empty_image(base, base.shape[1]), matches


library.define(
    f"{NAME}(Tensor base, Tensor references, Tensor weights, Tensor positions) -> (Tensor fused, Tensor matches)",
    oracle=_oracle,
    fake=_fake,
)


def _setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs, output[1])
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad_fused: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad_fused is None:
        return None, None, None, None
    # With the matches given, a local fusion is a lifted one on its own grid.
    needs = ctx.needs_input_grad[:3]
    grid = ctx.saved_tensors[0].shape[-2:]
    grads = torch.ops.pyeqgan.lifted_fusion_backward.default(grad_fused, *ctx.saved_tensors, grid, *needs)
    return *map(library.optional, grads, needs), None


library.differentiate(NAME, _backward, _setup_context)
