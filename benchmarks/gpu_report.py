"""The page of what `gpu` has measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from pyeqgan.benchmarks.harness import OURS, bootstrap_ratio
from pyeqgan.benchmarks.report import geometric_mean

CONTENDERS = (OURS, "triton", "cuda", "eager", "torch.compile", "torch.compile, max-autotune")
RIVALS = CONTENDERS[3:]
Measured = Mapping[str, Any]


def ratio(result: Measured, what: str = "device") -> tuple[float, float, float] | None:
    """Ours over the best rival: of the medians, and a 95 % interval; None where one has no time."""
    times = result.get(what, {})
    rivals = [name for name in RIVALS if name in times]
    if OURS not in times or not rivals:
        return None
    best = min(rivals, key=lambda name: median(times[name]))
    return median(times[OURS]) / median(times[best]), *bootstrap_ratio(times[OURS], times[best])


def name(result: Measured) -> str:
    """One result in one line."""
    return ", ".join(
        filter(None, (result["operation"], *(result[k] for k in ("variant", "problem", "layout", "dtype"))))
    )


def line(result: Measured) -> str:
    """One result for a person who waits."""
    times = "  ".join(f"{n} {_milliseconds(result['device'].get(n))}" for n in CONTENDERS if n in result["device"])
    problems = "".join(f"\n    {n}: {p}" for n, p in result["problems"].items())
    found = ratio(result)
    told = "" if found is None else f"  ratio {found[0]:.2f} [{found[1]:.2f}, {found[2]:.2f}]"
    return f"{name(result)}\n    {times} ms{told}{problems}"


def page(stored: Measured, file: str) -> list[str]:
    """The lines of the page."""
    where, roofs = stored["environment"], stored["roofs"]
    gpu = ", ".join(gpu["name"] for gpu in where["gpus"]) or "no GPU"
    state = "; ".join(
        f"{when}: " + ", ".join(f"{field} {value}" for field, value in stored[f"state_{when}"].items())
        for when in ("before", "after")
    )
    broken = [f"- {name(r)}: {who}: {why}" for r in stored["results"] for who, why in r["problems"].items()]
    products = ", ".join(f"{roofs[d] / 1e12:.0f} TFLOP/s in a {d} product" for d in ("bfloat16", "float32"))
    return [
        f"# GPU benchmarks: {gpu}",
        "",
        f"Made from [{file}]({file}) by `{where['command']}`; do not edit.",
        "",
        f"- {where['date']}, commit {where['commit'] or 'unknown'}; torch {where['packages']['torch']}, Triton "
        f"{where['packages']['triton'] or 'none'}, Python {where['python']}",
        f"- roofs in the same run: {products}, {roofs['copy'] / 1e12:.2f} TB/s in a copy, counted both ways",
        f"- clocks as they were found: {state}",
        "",
        "Forward and backward. *Device*: replays of a captured CUDA graph, kernels alone; *call*: launches included; "
        "*host*: what enqueuing takes the calling thread. The second-level cache is emptied before each round; "
        "contenders go in turns, after a match with float64. Milliseconds, medians. *Ratio*: ours, as routed, over the "
        "best of eager and `torch.compile` in either mode, on the device, with a 95 % bootstrap interval. *Roof*: the "
        "share of the roof that bounds the case.",
        "",
        *headline(stored["results"]),
        "",
        *table(stored["results"], roofs),
        *(["", "## What broke or did not match", "", *broken] if broken else []),
    ]


def headline(results: Sequence[Measured]) -> list[str]:
    """The geometric mean of the ratios of a dtype, and the worst."""
    lines = []
    for dtype in dict.fromkeys(r["dtype"] for r in results):
        found = {name(r): ratios[0] for r in results if r["dtype"] == dtype and (ratios := ratio(r))}
        if found:
            worst = max(found, key=lambda n: found[n])
            mean = geometric_mean(list(found.values()))
            lines.append(f"- {dtype}: **{mean:.2f}** (of {len(found)}), worst {found[worst]:.2f}: {worst}")
    return lines


def table(results: Sequence[Measured], roofs: Mapping[str, float]) -> list[str]:
    """A row per result."""
    head = ["case", "device: ours", "Triton", "CUDA C++", "eager", "compile", "max-autotune", "ratio", "roof"]
    head += ["call: ours, best", "host: ours, best", "peak MiB: ours, best"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for r in results:
        device = r.get("device", {})
        found = ratio(r)
        cells = [
            name(r),
            *(_milliseconds(device.get(n)) for n in CONTENDERS),
            "–" if found is None else f"**{found[0]:.2f}** [{found[1]:.2f}, {found[2]:.2f}]",
            _roof(r, roofs),
            *(f"{_milliseconds(times.get(OURS))}, {_best(times)}" for times in (r.get("call", {}), r.get("host", {}))),
            _peaks(r.get("peak", {})),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _milliseconds(seconds: Sequence[float] | None) -> str:
    return f"{1e3 * median(seconds):.3g}" if seconds else "–"


def _best(times: Mapping[str, Sequence[float]]) -> str:
    rivals = [times[n] for n in RIVALS if n in times]
    return _milliseconds(min(rivals, key=median)) if rivals else "–"


def _roof(result: Measured, roofs: Mapping[str, float]) -> str:
    ours = result.get("device", {}).get(OURS)
    if not ours:
        return "–"
    product = roofs["float32" if result["dtype"] == "float32" else "bfloat16"]
    least = max(result["flops"] / product, result["bytes"] / roofs["copy"])
    return f"{least / median(ours):.0%}"


def _peaks(peaks: Mapping[str, int]) -> str:
    rivals = [peaks[n] for n in RIVALS if n in peaks]
    told = [peaks.get(OURS), min(rivals, default=None)]
    return ", ".join("–" if size is None else f"{size / 2**20:.0f}" for size in told)
