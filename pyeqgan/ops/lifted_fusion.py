"""``lifted_fusion``: the blend a local fusion has found, repeated on a finer map of the same images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pyeqgan import reference
from pyeqgan.ops import _checks as check
from pyeqgan.ops import _library as library
from pyeqgan.ops.local_fusion import check_blend, check_positions

NAME = "lifted_fusion"


def lifted_fusion(
    base: Tensor,
    references: Tensor,
    weights: Tensor,
    positions: Tensor,
    matches: Tensor,
    grid: Sequence[int],
) -> Tensor:
    """Blend aligned patches of a finer map as a :func:`local_fusion` on a coarser grid has matched them.

    Each selected s×s patch of base becomes w_0·patch + Σ_r w_{r+1}·(the aligned s×s patch of reference r at its
    match); the other patches are those of base.

    Args:
        base: (B,C,s·h,s·w), float32, float64, bfloat16 or float16; any strides, s ≥ 1.
        references: (B,R,C,s·h,s·w) in the dtype of base.
        weights: (B,R+1) in the dtype of base, column 0 for the base.
        positions: (B,M) int64, distinct in each row, in [0, h·w).
        matches: (B,R,M) int64 in [0, h·w), as returned by ``local_fusion`` on the grid.
        grid: (h,w), the size of the map the positions and matches belong to.

    Returns:
        (B,C,s·h,s·w) in the dtype and memory format of base. Differentiable twice in base, references and weights.
        Saved for backward: the arguments. Nothing gathered is stored.

    Raises:
        TypeError, ValueError, NotImplementedError: as ``local_fusion``; also when the map is not a whole multiple
            of the grid, the same in both directions.

    Source: (ours); LoFGAN's fusion (ICCV 2021) lifted to the skip connections' resolution.
    """
    check.tensor(NAME, "base", base, shape=("B", "C", "s·h", "s·w"))
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
    rows, columns = check_grid(grid, height, width)
    check_positions(NAME, positions, base, rows * columns)
    shape = (batch, references.shape[1], positions.shape[1])
    check.tensor(NAME, "matches", matches, shape=shape, dtype=torch.int64, device=base.device)
    if check.readable(matches) and matches.numel():
        low, high = (int(m) for m in matches.aminmax())
        if low < 0 or high >= rows * columns:
            check.fail(NAME, "matches", f"values in [0, {rows * columns})", f"{low}..{high}")
    check.no_forward_mode(NAME, base, references, weights)
    fused: Tensor = torch.ops.pyeqgan.lifted_fusion.default(
        base, references, weights, positions, matches, [rows, columns]
    )
    return fused


def check_grid(grid: Sequence[int], height: int, width: int) -> tuple[int, int]:
    """Check that the map is the grid enlarged by one whole factor."""
    check.sequence(NAME, "grid", grid, "two integers (h, w)")
    if len(grid) != 2:
        check.fail(NAME, "grid", "two integers (h, w)", tuple(grid))
    rows, columns = (check.integer(NAME, "grid", g, minimum=1) for g in grid)
    scale = height // rows
    if scale < 1 or height != scale * rows or width != scale * columns:
        check.fail(NAME, "grid", f"(h, w) with s·h = {height} and s·w = {width} for one integer s", (rows, columns))
    return rows, columns


def _oracle(
    base: Tensor, references: Tensor, weights: Tensor, positions: Tensor, matches: Tensor, grid: Sequence[int]
) -> Tensor:
    fused = reference.lifted_fusion(base, references, weights, positions, matches, grid)
    return fused.contiguous(memory_format=library.memory_format_of(base))


def _fake(
    base: Tensor, references: Tensor, weights: Tensor, positions: Tensor, matches: Tensor, grid: Sequence[int]
) -> Tensor:
    return library.empty_image(base, base.shape[1])


def _backward_oracle(
    grad_fused: Tensor,
    base: Tensor,
    references: Tensor,
    weights: Tensor,
    positions: Tensor,
    matches: Tensor,
    grid: Sequence[int],
    need_base: bool,
    need_references: bool,
    need_weights: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    grad_base, grad_references, grad_weights = library.composed_backward(
        lambda *blend: reference.lifted_fusion(blend[0], blend[1], blend[2], positions, matches, grid),
        (base, references, weights),
        (grad_fused,),
        (need_base, need_references, need_weights),
    )
    if need_base:
        grad_base = grad_base.contiguous(memory_format=library.memory_format_of(base))
    if need_references:
        grad_references = empty_references(base, references).copy_(grad_references)
    return grad_base, grad_references, grad_weights.contiguous()


def empty_references(base: Tensor, references: Tensor) -> Tensor:
    """An uninitialised tensor of the references' shape, each image in the memory format of base."""
    batch, count, channels, height, width = references.shape
    if library.memory_format_of(base) != torch.channels_last:
        return references.new_empty(references.shape)
    return references.new_empty((batch, count, height, width, channels)).permute(0, 1, 4, 2, 3)


def _backward_fake(
    grad_fused: Tensor,
    base: Tensor,
    references: Tensor,
    weights: Tensor,
    positions: Tensor,
    matches: Tensor,
    grid: Sequence[int],
    need_base: bool,
    need_references: bool,
    need_weights: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        library.empty_image(base, base.shape[1]) if need_base else base.new_empty(0),
        empty_references(base, references) if need_references else base.new_empty(0),
        base.new_empty(weights.shape if need_weights else 0),
    )


library.define(
    f"{NAME}(Tensor base, Tensor references, Tensor weights, Tensor positions, Tensor matches, int[] grid) -> Tensor",
    oracle=_oracle,
    fake=_fake,
)
library.define(
    f"{NAME}_backward(Tensor grad_fused, Tensor base, Tensor references, Tensor weights, Tensor positions, "
    "Tensor matches, int[] grid, bool need_base, bool need_references, bool need_weights) "
    "-> (Tensor grad_base, Tensor grad_references, Tensor grad_weights)",
    oracle=_backward_oracle,
    fake=_backward_fake,
)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.grid = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, grad_fused: Tensor) -> tuple[Tensor | None, ...]:
    needs = ctx.needs_input_grad[:3]
    grads = torch.ops.pyeqgan.lifted_fusion_backward.default(grad_fused, *ctx.saved_tensors, ctx.grid, *needs)
    return *map(library.optional, grads, needs), None, None, None


library.differentiate(NAME, _backward, _setup_context)
library.differentiate_composed(f"{NAME}_backward")
