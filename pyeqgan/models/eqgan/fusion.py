"""How EqGAN fuses K images: the random choices, and their application to one feature map after another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from pyeqgan.functional import lifted_fusion, local_fusion


class FusionPlan(NamedTuple):
    """Every random choice of one generator call: with the same images, the same plan gives the same output.

    Attributes:
        weights: (B,K) floating, the share of each image, in the images' order; rows sum to 1.
        base: (B,) int64 in [0, K), the image whose layout is kept.
        positions: for each grid, by its side, the (B,M) int64 positions that local fusion replaces, distinct
            per row, row-major in [0, side²). Without grids whole maps are averaged (``fusion="mean"``).
    """

    weights: Tensor
    base: Tensor
    positions: dict[int, Tensor]

    @classmethod
    def sample(
        cls,
        grids: Mapping[int, int],
        batch: int,
        shots: int,
        *,
        generator: torch.Generator | None = None,
        device: torch.device | None = None,
        rows: slice = slice(None),
    ) -> FusionPlan:
        """Draw a plan: shares u/Σu with u uniform, base and positions uniform.

        Drawn on the device of ``generator`` (with None, by torch's default one of ``device``), then moved to
        ``device``: one seed gives one plan on every device.

        Args:
            grids: how many positions are replaced, by the grid's side.
            batch: B.
            shots: K.
            generator: source of randomness.
            device: where the plan goes; where it was drawn if None.
            rows: which rows of the drawn ones to return; no work is done for the others but drawing.
        """
        source = device if generator is None else generator.device
        # torch.rand is in [0, 1): its complement is never 0, so neither is a row's sum.
        shares = 1 - torch.rand(batch, shots, generator=generator, device=source)
        base = torch.randint(shots, (batch,), generator=generator, device=source)
        positions = {}
        for side, count in grids.items():
            keys = torch.rand(batch, side * side, generator=generator, device=source)
            positions[side] = keys[rows].argsort(1)[:, :count].contiguous()
        shares = shares[rows]
        plan = cls(shares / shares.sum(1, keepdim=True), base[rows], positions)
        return plan if device is None else plan.to(device)

    def weighted(self, weights: Tensor, generator: torch.Generator | None = None) -> FusionPlan:
        """The plan with these shares, (B,K) with positive rows of any sum, and bases drawn in proportion to them."""
        shares = weights / weights.sum(1, keepdim=True)
        base = torch.multinomial(shares, 1, generator=generator).squeeze(1)
        return FusionPlan(shares.to(self.weights), base.to(self.base), self.positions)

    def base_first(self, x: Tensor) -> Tensor:
        """Rotate dimension 1 of ``x`` (B,K,...): each row's base comes first, its references after it."""
        batch, shots = x.shape[:2]
        order = self.base[:, None] + torch.arange(shots, device=x.device)
        order = torch.where(order < shots, order, order - shots)  # ONNX knows no % of a size that is not fixed
        return x[torch.arange(batch, device=x.device)[:, None], order]

    def rows(self, rows: slice) -> FusionPlan:
        """The plan of a part of the batch."""
        positions = {side: p[rows] for side, p in self.positions.items()}
        return FusionPlan(self.weights[rows], self.base[rows], positions)

    def to(self, device: torch.device) -> FusionPlan:
        """The plan on another device."""
        positions = {side: p.to(device) for side, p in self.positions.items()}
        return FusionPlan(self.weights.to(device), self.base.to(device), positions)

    def check(self, grids: Mapping[int, int], batch: int, shots: int) -> None:
        """Raise ValueError unless the plan fits ``batch`` rows of ``shots`` images on these grids."""
        if self.positions.keys() != grids.keys():
            raise ValueError(
                f"FusionPlan: positions: expected grids of side {sorted(grids)}, got {sorted(self.positions)}"
            )
        expected = [("weights", self.weights, (batch, shots)), ("base", self.base, (batch,))]
        expected += [(f"positions[{side}]", self.positions[side], (batch, m)) for side, m in grids.items()]
        for name, value, shape in expected:
            if value.shape != shape:
                raise ValueError(f"FusionPlan: {name}: expected shape {shape}, got {tuple(value.shape)}")
        # Reading values would stall an accelerator and break a graph, so only the CPU looks, in eager mode.
        if torch.compiler.is_compiling() or self.base.device.type != "cpu":
            return
        if not all(0 <= base < shots for base in self.base.tolist()):
            raise ValueError(f"FusionPlan: base: expected indices in [0, {shots}), got {self.base.tolist()}")


class Fusion:
    """A plan at work on the maps of one batch, each (B,K,C,h,w) with the base first.

    Attributes:
        weights: (B,K), the plan's with the base first.
        matches: by grid side, (B,K-1,M) int64: where in each reference the content of a replaced position was
            found; filled by :meth:`fuse`.
    """

    def __init__(self, plan: FusionPlan, matches: Mapping[int, Tensor] | None = None) -> None:
        self.weights = plan.base_first(plan.weights)
        self.matches = dict(matches or {})
        self._positions = plan.positions

    def fuse(self, features: Tensor) -> Tensor:
        """Fuse maps (B,K,C,h,h) into one (B,C,h,h), matching features on their own grid."""
        if not self._positions:
            return self._mean(features)
        side = features.shape[-1]
        fused, self.matches[side] = local_fusion(
            features[:, 0], features[:, 1:], self.weights.to(features.dtype), self._positions[side]
        )
        return fused

    def lift(self, maps: Tensor, side: int) -> Tensor:
        """Fuse finer maps, or images, (B,K,C,s·side,s·side) by the matches found on the grid of ``side``."""
        if not self._positions:
            return self._mean(maps)
        return lifted_fusion(
            maps[:, 0],
            maps[:, 1:],
            self.weights.to(maps.dtype),
            self._positions[side],
            self.matches[side],
            (side, side),
        )

    def _mean(self, maps: Tensor) -> Tensor:
        return torch.einsum("bk,bkchw->bchw", self.weights.to(maps.dtype), maps)
