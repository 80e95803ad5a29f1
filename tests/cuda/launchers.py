"""The launchers of the CUDA kernels, called on CPU tensors. Everything they must write starts as NaN, or as -1."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import c_bool, c_float, c_int, c_int64, c_void_p
from typing import Any

import torch
from torch import Tensor

from pyeqgan.ops._library import empty_image, memory_format_of
from pyeqgan.ops.lifted_fusion import empty_references

DTYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}


def _sizes(values: Sequence[int]) -> ctypes.Array[c_int64]:
    return (c_int64 * len(values))(*values)


def _pointer(x: Tensor | None) -> c_void_p:
    return c_void_p(None if x is None else x.data_ptr())


class BilateralPropagation:
    """Those of bilateral_propagation."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library
        library.pyeqgan_bilateral_propagation_workspace.restype = c_int64
        self.result = 0

    def _workspace(self, size: torch.Size, radius: int, backward: bool) -> Tensor:
        bytes_ = self.library.pyeqgan_bilateral_propagation_workspace(_sizes(size), c_int64(radius), c_bool(backward))
        return torch.full((bytes_ // 4,), torch.nan)

    def forward(
        self, x: Tensor, gate: Tensor | None, sigma: float, radius: int, dtype: int | None = None
    ) -> tuple[Tensor, Tensor]:
        y = empty_image(x, 2 * x.shape[1]).fill_(torch.nan)
        affinity = torch.full((x.shape[0], 9, *x.shape[2:]), torch.nan)
        workspace = self._workspace(x.shape, radius, False)
        self.result = self.library.pyeqgan_bilateral_propagation(
            _pointer(x), _sizes(x.stride()), _pointer(gate), _pointer(y), _sizes(y.stride()), _pointer(affinity),
            _pointer(workspace), c_int(DTYPES[x.dtype] if dtype is None else dtype), _sizes(x.shape), c_float(sigma),
            c_int64(radius), c_void_p(None),
        )  # fmt: skip
        return y, affinity

    def backward(
        self, grad_y: Tensor, x: Tensor, gate: Tensor | None, affinity: Tensor, sigma: float, radius: int,
        need_x: bool = True, need_gate: bool = True,
    ) -> tuple[Tensor | None, Tensor | None]:  # fmt: skip
        grad_x = empty_image(x, x.shape[1]).fill_(torch.nan) if need_x else None
        grad_gate = torch.full_like(gate, torch.nan) if gate is not None and need_gate else None
        workspace = self._workspace(x.shape, radius, True)
        self.result = self.library.pyeqgan_bilateral_propagation_backward(
            _pointer(grad_y), _sizes(grad_y.stride()), _pointer(x), _sizes(x.stride()), _pointer(gate),
            _pointer(affinity), _pointer(grad_x), _sizes((0,) * 4 if grad_x is None else grad_x.stride()),
            _pointer(grad_gate), _pointer(workspace), c_int(DTYPES[x.dtype]), _sizes(x.shape), c_float(sigma),
            c_int64(radius), c_void_p(None),
        )  # fmt: skip
        return grad_x, grad_gate


class _Description(ctypes.Structure):
    _fields_ = (
        *((name, c_void_p) for name in ("base", "references", "weights", "positions", "matches")),
        ("base_stride", c_int64 * 4),
        ("references_stride", c_int64 * 5),
        *((n, c_int64) for n in ("batch", "count", "channels", "rows", "columns", "scale", "selected")),
        ("dtype", c_int),
    )


class Fusion:
    """Those of local_fusion and lifted_fusion."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library
        library.pyeqgan_lifted_fusion_workspace.restype = c_int64
        self.result = 0

    def describe(
        self, base: Tensor, references: Tensor, weights: Tensor, positions: Tensor, matches: Tensor | None, rows: int,
        columns: int,
    ) -> _Description:  # fmt: skip
        batch, count, channels, height, _ = references.shape
        return _Description(
            base.data_ptr(), references.data_ptr(), weights.data_ptr(), positions.data_ptr(),
            None if matches is None else matches.data_ptr(), _sizes(base.stride()), _sizes(references.stride()),
            batch, count, channels, rows, columns, height // rows if rows else 1, positions.shape[1],
            DTYPES[base.dtype],
        )  # fmt: skip

    def local(self, base: Tensor, references: Tensor, weights: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        fused = empty_image(base, base.shape[1]).fill_(torch.nan)
        matches = torch.full((*references.shape[:2], positions.shape[1]), -1)
        about = self.describe(base, references, weights, positions, None, *base.shape[2:])
        self.result = self.library.pyeqgan_local_fusion(
            ctypes.byref(about), _pointer(fused), _sizes(fused.stride()), _pointer(matches), None
        )
        return fused, matches

    def lifted(
        self, base: Tensor, references: Tensor, weights: Tensor, positions: Tensor, matches: Tensor,
        grid: tuple[int, int],
    ) -> Tensor:  # fmt: skip
        fused = empty_image(base, base.shape[1]).fill_(torch.nan)
        about = self.describe(base, references, weights, positions, matches, *grid)
        self.result = self.library.pyeqgan_lifted_fusion(
            ctypes.byref(about), _pointer(fused), _sizes(fused.stride()), None
        )
        return fused

    def backward(
        self, grad_fused: Tensor, base: Tensor, references: Tensor, weights: Tensor, positions: Tensor,
        matches: Tensor, grid: tuple[int, int], needs: Sequence[bool] = (True, True, True),
    ) -> list[Tensor | None]:  # fmt: skip
        about = self.describe(base, references, weights, positions, matches, *grid)
        bytes_ = self.library.pyeqgan_lifted_fusion_workspace(ctypes.byref(about))
        workspace = torch.full((-(-bytes_ // 8),), torch.nan, dtype=torch.float64)
        grads = [empty_image(base, base.shape[1]), empty_references(base, references), torch.empty_like(weights)]
        wanted = [g.fill_(torch.nan) if need else None for g, need in zip(grads, needs, strict=True)]
        grad_base, grad_references, grad_weights = wanted
        self.result = self.library.pyeqgan_lifted_fusion_backward(
            ctypes.byref(about), _pointer(grad_fused), _sizes(grad_fused.stride()), _pointer(grad_base),
            _sizes(grads[0].stride()), _pointer(grad_references), _sizes(grads[1].stride()), _pointer(grad_weights),
            _pointer(workspace), None,
        )  # fmt: skip
        return wanted


class _Scale(ctypes.Structure):
    _fields_ = (
        *((name, c_void_p) for name in ("equalized", "decoded", "grad_equalized", "grad_decoded")),
        *((name, c_int64) for name in ("images", "channels", "pixels")),
        ("pixel_major", c_bool),
        ("share", c_float),
    )


class Consistency:
    """Those of equalization_consistency_loss. All tensors of a scale are dense, in one memory format."""

    DISTANCES = ("cosine", "l1", "l2")

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library
        library.pyeqgan_consistency_loss_workspace.restype = c_int64
        self.result = 0

    def _scales(
        self, equalized: Sequence[Tensor], decoded: Sequence[Tensor], weights: Sequence[float], distance: str,
        grads: Sequence[Tensor | None] = (),
    ) -> ctypes.Array[_Scale]:  # fmt: skip
        count = len(equalized)
        grads = grads or [None] * (2 * count)
        scales = []
        for i, (e, d, weight) in enumerate(zip(equalized, decoded, weights, strict=True)):
            batch, channels, height, width = e.shape
            distances = e.numel() // max(channels, 1) if distance == "cosine" else e.numel()
            pointers = (x if x is None else x.data_ptr() for x in (e, d, grads[i], grads[count + i]))
            pixel_major = memory_format_of(e) == torch.channels_last
            share = weight / max(distances, 1)
            scales.append(_Scale(*pointers, batch, channels, height * width, pixel_major, share))
        return (_Scale * count)(*scales)

    def forward(
        self, equalized: Sequence[Tensor], decoded: Sequence[Tensor], weights: Sequence[float], distance: str
    ) -> Tensor:
        scales, number = self._scales(equalized, decoded, weights, distance), self.DISTANCES.index(distance)
        bytes_ = self.library.pyeqgan_consistency_loss_workspace(scales, c_int64(len(scales)), c_int(number))
        loss, workspace = torch.tensor(torch.nan), torch.full((bytes_ // 4,), torch.nan)
        self.result = self.library.pyeqgan_consistency_loss(
            scales, c_int64(len(scales)), c_int(number), c_int(DTYPES[equalized[0].dtype]), _pointer(loss),
            _pointer(workspace), None,
        )  # fmt: skip
        return loss

    def backward(
        self, grad_loss: Tensor, equalized: Sequence[Tensor], decoded: Sequence[Tensor], weights: Sequence[float],
        distance: str, needs: Sequence[bool],
    ) -> list[Tensor | None]:  # fmt: skip
        features = (*equalized, *decoded)
        grads = [torch.full_like(f, torch.nan) if need else None for f, need in zip(features, needs, strict=True)]
        scales = self._scales(equalized, decoded, weights, distance, grads)
        self.result = self.library.pyeqgan_consistency_loss_backward(
            scales, c_int64(len(scales)), c_int(self.DISTANCES.index(distance)), c_int(DTYPES[equalized[0].dtype]),
            _pointer(grad_loss), None,
        )  # fmt: skip
        return grads


class _Rows(ctypes.Structure):
    _fields_ = (
        ("features", c_void_p),
        ("stride", c_int64 * 2),
        *((name, c_void_p) for name in ("labels", "order", "ids")),
        ("count", c_int64),
    )


class _Contrast(ctypes.Structure):
    _fields_ = (
        *((name, _Rows) for name in ("queries", "keys")),
        *((name, c_bool) for name in ("single", "normalize", "supcon")),
        *((name, c_int64) for name in ("channels", "ignore_index")),
        ("temperature", c_void_p),
        ("temperature_value", c_float),
        ("dtype", c_int),
    )


class ContrastiveLoss:
    """Those of contrastive_loss, with the arguments of the operation. A temperature tensor is read by the kernels."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library
        library.pyeqgan_contrastive_loss_workspace.restype = c_int64
        self.result = 0

    def _rows(self, features: Tensor, labels: Tensor, ids: Tensor | None) -> _Rows:
        order = torch.arange(len(labels)) if ids is None else ids.sort(stable=True).indices
        ascending, places = labels[order].sort(stable=True)
        self.kept += [ascending, order := order[places]]
        pointers = (ascending.data_ptr(), order.data_ptr(), None if ids is None else ids.data_ptr())
        return _Rows(features.data_ptr(), _sizes(features.stride()), *pointers, len(labels))

    def _problem(
        self, queries: Tensor, query_labels: Tensor, keys: Tensor | None, key_labels: Tensor | None,
        temperature: float | Tensor, mode: str, normalize: bool, ignore_index: int, query_ids: Tensor | None,
        key_ids: Tensor | None,
    ) -> _Contrast:  # fmt: skip
        self.kept: list[Tensor] = []  # what the description points to
        own = self._rows(queries, query_labels, query_ids)
        others = _Rows() if keys is None or key_labels is None else self._rows(keys, key_labels, key_ids)
        value = float("nan") if isinstance(temperature, Tensor) else temperature
        return _Contrast(
            own, others, keys is None, normalize, mode == "supcon", queries.shape[1], ignore_index,
            temperature.data_ptr() if isinstance(temperature, Tensor) else None, value, DTYPES[queries.dtype],
        )  # fmt: skip

    def _workspace(self, about: _Contrast, backward: bool) -> Tensor:
        bytes_ = self.library.pyeqgan_contrastive_loss_workspace(ctypes.byref(about), c_bool(backward))
        return torch.full((bytes_ // 4,), torch.nan)

    def forward(self, *arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        about, rows = self._problem(*arguments), len(arguments[0])
        loss, boundary, weight = (torch.full((rows,), torch.nan) for _ in range(3))
        count, workspace = torch.full((rows,), -1), self._workspace(about, False)
        self.result = self.library.pyeqgan_contrastive_loss(
            ctypes.byref(about), *map(_pointer, (loss, boundary, weight, count, workspace)), None
        )
        return loss, boundary, weight, count

    def backward(
        self, grad_loss: Tensor, *arguments: Any, boundary: Tensor, weight: Tensor,
        needs: Sequence[bool] = (True, True, True),
    ) -> list[Tensor | None]:  # fmt: skip
        queries, keys = arguments[0], arguments[2]
        about = self._problem(*arguments)
        like = (queries.contiguous(), None if keys is None else keys.contiguous(), torch.empty(()))
        grads = [
            torch.full_like(x, torch.nan) if x is not None and need else None
            for x, need in zip(like, needs, strict=True)
        ]
        workspace = self._workspace(about, True)
        self.result = self.library.pyeqgan_contrastive_loss_backward(
            ctypes.byref(about), *map(_pointer, (grad_loss, boundary, weight, *grads, workspace)), None
        )
        return grads
