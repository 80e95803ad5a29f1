"""Results of a call, and what the oracle makes of the same arguments."""

from __future__ import annotations

import math
import warnings
from types import ModuleType
from typing import Any

import torch
from fuzz.calls import Call
from torch import Tensor
from torch.utils import _pytree as pytree

from pyeqgan import functional, reference

SLACK = {torch.float32: 1e-4, torch.float64: 1e-11, torch.bfloat16: 2e-2, torch.float16: 4e-3}
HALF = (torch.bfloat16, torch.float16)
# The oracle of these multiplies by a matrix with zeros or by padded zeros, and 0·NaN is NaN; a kernel need not.
SPREADING = ("bilateral_propagation", "equalization_fusion", "activated_conv2d", "layout_conv2d")
# The oracle of these leaves out the comparison with no negative at all; a kernel subtracts NaN from −∞.
HIDING = ("contrastive_loss", "multiscale_contrastive_loss")
# These look at the directions of their features.
DIRECTIONAL = (*HIDING, "equalization_consistency_loss")


def results(
    module: ModuleType, call: Call, dtype: torch.dtype | None = None
) -> tuple[list[Tensor], list[Tensor | None]]:
    """Outputs and updated statistics, and gradients; the oracle's on contiguous arguments, cast to ``dtype`` if given.

    Strides are for our kernels: some of torch's refuse them.
    """
    leaves: list[Tensor] = []

    def copy(value: Any, name: str) -> Any:
        if isinstance(value, list | tuple):
            return type(value)(copy(v, name) for v in value)
        if isinstance(value, torch.Generator):
            return torch.Generator().set_state(value.get_state())
        if not isinstance(value, Tensor) or not value.dtype.is_floating_point:
            return value
        value = value.detach() if module is functional else value.detach().to(dtype).contiguous()
        if "running" in name:
            return value.clone()
        leaves.append(value.requires_grad_())
        return leaves[-1]

    copies = {name: copy(value, name) for name, value in call.arguments.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = getattr(module, call.operation)(**copies)
        outputs = list(found) if isinstance(found, tuple) else [found]
        grads: list[Tensor | None] = [None] * len(leaves)
        if leaves and outputs[0].requires_grad:
            upstream = torch.randn(outputs[0].shape, generator=torch.Generator().manual_seed(0))
            grads = list(torch.autograd.grad(outputs[0], leaves, upstream.to(outputs[0]), allow_unused=True))
    return [*outputs, *(v for n, v in copies.items() if "running" in n and v is not None)], grads


def assert_as_the_oracle(call: Call, outputs: list[Tensor], grads: list[Tensor | None]) -> None:
    """Ours against the oracle at the same dtype and in float64: shapes, what is finite, NaN, and accuracy.

    Of numbers whose sums overflow in one order and not in another only shapes are compared, and of results that are
    not finite no gradients: a derivative at NaN is what one likes.
    """
    if outputs[0].is_meta:
        return
    if call.operation == "local_fusion":
        base = call.arguments["base"]
        assert_best_matches(call.arguments, outputs[1])
        if 0 in base.shape[2:]:
            assert outputs[0].shape == base.shape
            return
        matched = {"matches": outputs.pop(1), "grid": tuple(base.shape[2:])}
        call = Call("lifted_fusion", {**call.arguments, **matched})
    plain, truth = results(reference, call), results(reference, call, torch.float64)
    given = [t for t in pytree.tree_leaves(call.arguments) if isinstance(t, Tensor) and t.dtype.is_floating_point]
    hides = call.operation in HIDING and not all(bool(t.isfinite().all()) for t in given)
    exact_nans = call.operation not in SPREADING and not any(bool(t.isinf().any()) for t in given)
    normalised = call.arguments.get("norm") is not None
    # What is kept between a product and its norm may leave float16, whatever the result.
    narrow = normalised and any(t.dtype == torch.float16 for t in given)
    for kind, *lists in zip(("result", "gradient"), (outputs, grads), plain, truth, strict=True):
        norms = [float(t.detach().norm()) for t in lists[2] if t is not None]
        scale = max(0.1 * max(filter(math.isfinite, norms), default=0.0), sensitivity(call, given))
        for i, (ours, same, exact) in enumerate(zip(*lists, strict=True)):
            name = f"{kind} {i}"
            if ours is None or same is None or exact is None:
                assert ours is None or not ours.any(), f"{name}: the oracle has none"
                continue
            assert (ours.shape, ours.dtype) == (same.shape, same.dtype), f"{name}: {ours.shape}, {ours.dtype}"
            if hides or narrow or any(map(overflowing, given)):
                continue
            ours, same, exact = (t.detach() for t in (ours, same, exact))
            assert_finite_alike(name, ours, same, exact, exact_nans and kind == "result")
            # At half precision one value that crosses a kink outweighs all rounding in a gradient, and a norm enlarges
            # the rounding of what it is applied to.
            if ours.dtype not in HALF or (kind == "result" and not normalised):
                wrong = inaccuracy(name, ours, same, exact, scale)
                if wrong and kind == "gradient" and normalised and on_a_kink(call, truth[1]):
                    return
                assert not wrong, wrong
        if not all(bool(t.isfinite().all()) for t in outputs):
            return


def overflowing(x: Tensor) -> bool:
    """Whether a sum or a product of these finite numbers may not be finite."""
    return bool(((x.abs() > torch.finfo(x.dtype).max / 8) & x.isfinite()).any())


def sensitivity(call: Call, given: list[Tensor]) -> float:
    """What a relative rounding may grow to, where it is divided: by a norm's √eps, a feature's length, a temperature.

    A norm may leave nothing of its argument but the rounding, and multiply that by another argument.
    """
    if call.arguments.get("norm") is not None:
        largest = max([1.0, *(float(t.abs().nan_to_num(posinf=0.0).max()) for t in given if t.numel())])
        return largest * largest / math.sqrt(max(call.arguments.get("eps", 1e-5), 1e-12))
    if call.operation not in DIRECTIONAL:
        return 1.0
    lengths = [t.double().norm(dim=1).flatten() for t in given if t.dim() > 1]
    shortest = float(torch.cat([*lengths, torch.ones(1)]).min().clamp_min(1e-12))
    return 1 / (shortest * min(1.0, float(call.arguments.get("temperature", 1.0))) ** 2)


def assert_finite_alike(name: str, ours: Tensor, plain: Tensor, truth: Tensor, exact_nans: bool) -> None:
    """Ours is finite where the oracle is, and NaN where it is NaN."""
    spread = plain.isfinite() & truth.isfinite() & ~ours.isfinite()
    assert not spread.any(), f"{name}: not finite in {int(spread.sum())} places where the oracle is"
    hidden = plain.isnan() & truth.isnan() & ~ours.isnan()
    assert not exact_nans or not hidden.any(), f"{name}: no NaN in {int(hidden.sum())} places where the oracle has it"


def on_a_kink(call: Call, truth: list[Tensor | None]) -> bool:
    """Whether other gradients belong to arguments that differ by a rounding.

    A norm leaves of a constant, such as a convolution by zeros, zero or a rounding; an activation then lets all of the
    gradient pass or little of it.
    """
    noise = torch.Generator().manual_seed(1)

    def rounded(value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.dtype.is_floating_point:
            return value
        unit = (
            8
            * torch.finfo(value.dtype).eps
            * max(1.0, float(value.abs().nan_to_num().amax()) if value.numel() else 0.0)
        )
        return value.detach().double() + unit * torch.randn(value.shape, generator=noise, dtype=torch.float64)

    near = Call(call.operation, {name: rounded(value) for name, value in call.arguments.items()})
    pairs = [(g, t) for g, t in zip(results(reference, near, torch.float64)[1], truth, strict=True) if t is not None]
    size = max(float(t.norm()) for pair in pairs for t in pair if t is not None)
    return any(float((t if g is None else g - t).norm()) > 1e-3 * size for g, t in pairs)


def inaccuracy(name: str, ours: Tensor, plain: Tensor, truth: Tensor, scale: float) -> str | None:
    """In which way ours is less accurate than plain PyTorch, if it is.

    A tensor that is zero by nature is measured by ``scale``.
    """
    if plain.isfinite().all() and truth.isfinite().all():
        error, usual = (float((x.double() - truth).norm()) for x in (ours, plain))
        allowed = 8 * usual + SLACK.get(ours.dtype, 0.0) * max(float(truth.norm()), scale)
        if not error <= allowed:
            return f"{name}: error {error:.3g}, allowed {allowed:.3g}, of {truth.norm():.3g}"
    return None


def assert_best_matches(arguments: dict[str, Any], matches: Tensor) -> None:
    """The matches of a local fusion are as similar as any, and the first of those that are equal."""
    images = arguments["base"], arguments["references"]
    base, references = images[0].double().flatten(2), images[1].double().flatten(3)
    assert matches.shape == (*references.shape[:2], arguments["positions"].shape[1])
    if not matches.numel() or any(overflowing(i) or not i.isfinite().all() for i in images):
        return
    assert matches.min() >= 0 and matches.max() < references.shape[3]
    unit = references / references.norm(dim=2, keepdim=True).clamp_min(1e-12)
    index = arguments["positions"][:, None].expand(-1, base.shape[1], -1)
    similarity = torch.einsum("bcm,brcn->brmn", base.gather(2, index), unit)
    best, found = similarity.amax(-1), similarity.gather(3, matches[..., None])[..., 0]
    slack = 1e-5 * base.norm(dim=1).amax() if arguments["base"].dtype != torch.float64 else 1e-12
    assert (best - found <= slack).all(), f"a match is worse than the best by {float((best - found).max()):.3g}"
    if not similarity.any():
        assert not matches.any(), "of equal ones the first is the match"
