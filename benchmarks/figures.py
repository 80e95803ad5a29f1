"""The figures of a report, as SVG that is the same for the same numbers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from pyeqgan.benchmarks.harness import OURS

if TYPE_CHECKING:
    from pyeqgan.benchmarks.report import Run

COLOURS = {OURS: "#0b5fa5", "eager": "#c2571a", "torch.compile": "#6b8e23", "floor": "#777777"}
SHADES = ("#8fbbe0", "#0b5fa5", "#06345c", "#000000")
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "pyeqgan",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#dddddd",
}


def _save(figure: Figure, target: Path) -> None:
    figure.savefig(target, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": "pyeqgan"})


def ratios(run: Run, target: Path) -> None:
    """Every case's ratio as a bar from 1, to the left where ours is faster, with its interval; a colour per threads."""
    rows: dict[tuple[str, ...], list[Any]] = {}
    for r in run.results:
        if r.ratio is not None:
            what = r.operation + (f", {r.variant}" if r.variant else "")
            rows.setdefault((what, r.stage, r.problem, r.layout), []).append(r)
    threads = sorted(run.roofs)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, 1.2 + 0.3 * len(rows)))
        axes = figure.add_subplot()
        height = 0.8 / len(threads)
        labels, before = [], None
        for row, ((operation, stage, problem, layout), results) in enumerate(rows.items()):
            for r in results:
                low, high = r.ratio_interval
                y = row - 0.4 + height * (threads.index(r.threads) + 0.5)
                colour = SHADES[threads.index(r.threads) % len(SHADES)]
                axes.barh(y, r.ratio - 1, left=1, height=height, color=colour)
                axes.plot([low, high], [y, y], color="#222222", linewidth=1)
            if before not in (None, (operation, stage)):
                axes.axhline(row - 0.5, color="#999999", linewidth=0.8)
            before = (operation, stage)
            labels.append(f"{operation}: {problem}, {layout}" + (f", {stage}" if stage != "forward+backward" else ""))
        for index, n in enumerate(threads):
            axes.barh(0, 0, left=1, color=SHADES[index % len(SHADES)], label=f"{n} thread{'s' * (n > 1)}")
        axes.axvline(1, color="#222222", linewidth=1)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
        axes.set_yticks(range(len(labels)), labels)
        axes.grid(axis="y", visible=False)
        axes.set_ylim(len(labels) - 0.5, -0.5)
        axes.set_xlabel("time of ours / time of the better of eager and torch.compile (left of 1: ours is faster)")
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(threads), frameon=False)
        _save(figure, target)


def scaling(run: Run, target: Path) -> None:
    """Latency with the time that the roofs allow, and peak memory, of the contrastive loss against its rows."""
    results = [r for r in run.scaling if r.timings]
    rows = {id(r): int(r.problem.split(",")[0].removeprefix("N ")) for r in results}
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, 3.6), layout="constrained")
        latency, memory = figure.subplots(1, 2)
        for name in (OURS, "eager", "torch.compile"):
            found = [(rows[id(r)], r.timings[name]) for r in results if name in r.timings]
            if not found:
                continue
            style = {"color": COLOURS[name], "marker": "o", "markersize": 4, "label": name}
            latency.plot([n for n, _ in found], [1e3 * t.median for _, t in found], **style)
            known = [(n, t.peak_bytes / 2**20) for n, t in found if t.peak_bytes]
            memory.plot([n for n, _ in known], [size for _, size in known], **style)
        floor = [(rows[id(r)], 1e3 * run.light(r)) for r in results]
        latency.plot(*zip(*floor, strict=True), "--", color=COLOURS["floor"], label="roof of the machine")
        for axes, title in ((latency, "forward and backward, ms"), (memory, "peak above the inputs, MiB")):
            axes.set(xscale="log", yscale="log", xlabel="rows", title=title)
            axes.set_xticks(sorted(rows.values()), [str(n) for n in sorted(rows.values())])
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.minorticks_off()
        latency.legend(frameon=False)
        _save(figure, target)
