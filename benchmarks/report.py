"""The report of stored measurements: ``python -m pyeqgan.benchmarks.report FILE…``.

Beside the newest file of each folder it writes README.md and its figures; the folder's other files given get a line.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyeqgan.benchmarks.harness import OURS, TOLERANCE, Result, Timing

RIVALS = ("eager", "torch.compile")


@dataclass(frozen=True)
class Run:
    """One stored file: where it was measured, the roofs by number of threads, and its results."""

    path: Path
    environment: dict[str, Any]
    roofs: dict[int, dict[str, float]]
    results: list[Result]
    scaling: list[Result]
    steps: list[Result]

    def light(self, result: Result) -> float:
        """The seconds in which the roofs allow a result: of its products or of its traffic, whichever takes longer."""
        roof = self.roofs[result.threads]
        return max(result.flops / roof["gflops"], result.bytes / roof["gbytes"]) / 1e9


def load(path: Path) -> Run:
    """Read what ``harness.main`` stored."""
    stored = json.loads(path.read_text(encoding="utf-8"))

    def results(kind: str) -> list[Result]:
        return [
            Result(**{**r, "timings": {name: Timing(**t) for name, t in r["timings"].items()}})
            for r in stored.get(kind, [])
        ]

    roofs = {int(r["threads"]): r for r in stored["roofs"]}
    return Run(path, stored["environment"], roofs, results("results"), results("scaling"), results("steps"))


def geometric_mean(values: Sequence[float]) -> float:
    """Of positive numbers, one at least."""
    return math.exp(sum(map(math.log, values)) / len(values))


def write(paths: Iterable[Path]) -> list[Path]:
    """Make the reports of the folders the files lie in; returns the pages."""
    from pyeqgan.benchmarks import figures  # matplotlib: an extra

    folders: dict[Path, list[Run]] = {}
    for path in paths:
        folders.setdefault(path.parent, []).append(load(path))
    pages = []
    for folder, runs in folders.items():
        newest, *others = sorted(runs, key=lambda r: str(r.environment["date"]), reverse=True)
        figures.ratios(newest, folder / "ratios.svg")
        if any(r.timings for r in newest.scaling):
            figures.scaling(newest, folder / "scaling.svg")
        pages.append(folder / "README.md")
        pages[-1].write_text("\n".join(page(newest, others)) + "\n", encoding="utf-8")
    return pages


def page(run: Run, others: Sequence[Run]) -> list[str]:
    """The lines of a report."""
    where = run.environment
    packages, cpu, build = where["packages"], where["cpu"], where["build"] or {}
    title = f"{where['processor']}, {where['processors']} processors"
    missed = [r for r in (*run.results, *run.scaling, *run.steps) if r.ratio is None]
    lines = [
        f"# Benchmarks: {title}",
        "",
        f"Made from [{run.path.name}]({run.path.name}) by `python -m pyeqgan.benchmarks.report`; do not edit.",
        "",
        f"- {where['date']}, commit {where['commit'] or 'unknown'}, `{where['command']}`",
        f"- torch {packages['torch']}, Python {where['python']}, gcc {build.get('compiler', 'none')}; kernels "
        f"{cpu['capability'] or 'not built'}, torch's {cpu['torch_capability']}",
        *(
            f"- roofs in the same run, {n} thread{'s' * (n > 1)}: {r['gflops']:.0f} GFLOP/s in a float32 product, "
            f"{r['gbytes']:.1f} GB/s in a copy"
            for n, r in run.roofs.items()
        ),
        "",
        "float32. Each case ran round by round: ours, eager PyTorch, `torch.compile`, ours, … *Ratio* is the median "
        "time of ours over that of the better of the other two, less than 1 where ours is faster, with a 95 % "
        "bootstrap interval over the rounds. Before anything is timed, ours must match the eager form in float64 "
        f"(relative error < {TOLERANCE:g}). Times of different runs are not comparable; ratios are.",
        "",
        "## Headline",
        "",
        *headline(run),
        "",
        "![Ratio of every case](ratios.svg)",
        "",
        "## Where we lose",
        "",
        *losses(run),
        "",
        *(
            ["## No match, no time", "", *(f"- {name(r)}: relative error {r.error:.1e}" for r in missed), ""]
            * bool(missed)
        ),
        "## Cases",
        "",
        "Times in ms: median [quartiles]. Rate: of the roof that bounds the case, and the share of it that ours "
        "reaches; products are counted in the direct form, so that Winograd's may exceed 100 %. Peak: MiB above the "
        "inputs.",
        "",
        *cases(run),
    ]
    if any(r.timings for r in run.scaling):
        lines += ["## The contrastive loss against size", "", "![Latency and memory](scaling.svg)", ""]
        lines += [*table(run, [r for r in run.scaling if r.timings]), ""]
    if any(r.timings for r in run.steps):
        lines += ["## A whole training step", "", *steps(run), ""]
    if others:
        lines += ["## Other runs on this machine", "", *history(others), ""]
    return lines[:-1]


def headline(run: Run) -> list[str]:
    """Per operation, number of threads and stage: the geometric mean, and the worst case by name."""
    groups: dict[tuple[str, str, int], list[Result]] = {}
    for r in run.results:
        if r.ratio is not None:
            groups.setdefault((operation(r), r.stage, r.threads), []).append(r)
    lines = ["| operation | stage | threads | ratio, geometric mean | worst case | |", "|---|---|---|---|---|---|"]
    for (what, stage, threads), results in groups.items():
        mean = geometric_mean([_ratio(r) for r in results])
        worst = max(results, key=_ratio)
        lines.append(
            f"| {what} | {stage} | {threads} | **{mean:.2f}** (of {len(results)}) | {_ratio(worst):.2f} "
            f"| {worst.problem}, {worst.layout} |"
        )
    return lines


def losses(run: Run) -> list[str]:
    """The cases whose interval lies above 1, or holds it."""
    slower = [r for r in run.results if r.ratio_interval and r.ratio_interval[0] > 1]
    unsure = [r for r in run.results if r.ratio_interval and r.ratio_interval[0] <= 1 <= r.ratio_interval[1]]
    lines = [f"- slower: {name(r)}: {_interval(r)}" for r in sorted(slower, key=_ratio, reverse=True)]
    lines += [f"- undecided: {name(r)}: {_interval(r)}" for r in sorted(unsure, key=_ratio, reverse=True)]
    return lines or ["In no case of this run."]


def cases(run: Run) -> list[str]:
    """A table per operation."""
    lines: list[str] = []
    for what in dict.fromkeys(map(operation, run.results)):
        rows = [r for r in run.results if operation(r) == what and r.timings]
        if rows:
            lines += [f"### {what}", "", *table(run, rows), ""]
    return lines


def table(run: Run, results: Sequence[Result]) -> list[str]:
    """A row per result."""
    lines = [
        "| problem | layout | thr. | stage | ours | eager | torch.compile | ratio | rate, share of the roof "
        "| peak: ours, eager, compile |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in results:
        times = " | ".join(_time(r.timings.get(n)) for n in (OURS, *RIVALS))
        peaks = ", ".join(_peak(r.timings.get(n)) for n in (OURS, *RIVALS))
        what = f"{r.problem} | {r.layout} | {r.threads} | {r.stage}"
        lines.append(f"| {what} | {times} | {_interval(r)} | {rate(run, r)} | {peaks} |")
    return lines


def steps(run: Run) -> list[str]:
    """The training steps: ours beside each form of the published one."""
    lines = [
        "Losses and gradients of both networks and Adam, against the published form in eager PyTorch and with each "
        "operation compiled where it is not differentiated twice. Times in ms: median [quartiles]. Peak: MiB above "
        "networks and optimisers, in a process of its own.",
        "",
        "| problem | thr. | step | ours | eager | torch.compile | ours / eager | ours / compile "
        "| peak: ours, eager, compile | peak, ours / eager |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in run.steps:
        ours, *others = (r.timings.get(n) for n in (OURS, *RIVALS))
        if ours is not None:
            ratios = " | ".join("–" if t is None else f"**{ours.median / t.median:.2f}**" for t in others)
            times = " | ".join(_time(t) for t in (ours, *others))
            peaks = ", ".join(_peak(t) for t in (ours, *others))
            grown = [t.peak_bytes for t in (ours, others[0]) if t is not None and t.peak_bytes]
            share = f"**{grown[0] / grown[1]:.2f}**" if len(grown) == 2 else "–"
            lines.append(f"| {r.problem} | {r.threads} | {r.variant} | {times} | {ratios} | {peaks} | {share} |")
    return lines


def rate(run: Run, result: Result) -> str:
    """What ours reaches of the roof that bounds the case."""
    seconds, roof = result.timings[OURS].median, run.roofs[result.threads]
    if not result.bytes:
        return "–"
    products = result.flops / roof["gflops"] > result.bytes / roof["gbytes"]
    amount, unit = (result.flops, "GFLOP/s") if products else (result.bytes, "GB/s")
    return f"{amount / seconds / 1e9:.3g} {unit}, {run.light(result) / seconds:.0%}"


def history(runs: Sequence[Run]) -> list[str]:
    """A line per run: the geometric means with its most threads."""
    lines = ["| file | commit | kernels | ratios of forward+backward, geometric means |", "|---|---|---|---|"]
    for run in runs:
        threads = max(run.roofs)
        groups: dict[str, list[float]] = {}
        for r in run.results:
            if r.ratio is not None and (r.threads, r.stage) == (threads, "forward+backward"):
                groups.setdefault(operation(r), []).append(r.ratio)
        means = ", ".join(f"{what} {geometric_mean(ratios):.2f}" for what, ratios in groups.items())
        commit, kernels = run.environment["commit"] or "unknown", run.environment["cpu"]["capability"]
        file = f"[{run.path.name}]({run.path.name})"
        lines.append(f"| {file} | {commit[:12]} | {kernels}, {threads} threads | {means} |")
    return lines


def operation(result: Result) -> str:
    """Its operation, with the variant where there is one."""
    return f"`{result.operation}`" + (f", {result.variant}" if result.variant else "")


def name(result: Result) -> str:
    """One result in one line."""
    r = result
    return f"{operation(r)}: {r.problem}, {r.layout}, {r.threads} thread{'s' * (r.threads > 1)}, {r.stage}"


def _ratio(result: Result) -> float:
    assert result.ratio is not None
    return result.ratio


def _interval(result: Result) -> str:
    assert result.ratio_interval is not None
    low, high = result.ratio_interval
    return f"{_ratio(result):.2f} [{low:.2f}, {high:.2f}]"


def _time(timing: Timing | None) -> str:
    if timing is None:
        return "–"
    median, low, high = (f"{1e3 * t:.3g}" for t in (timing.median, timing.lower_quartile, timing.upper_quartile))
    return f"{median} [{low}, {high}]"


def _peak(timing: Timing | None) -> str:
    return "–" if timing is None or timing.peak_bytes is None else f"{timing.peak_bytes / 2**20:.0f}"


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python -m pyeqgan.benchmarks.report FILE…")
    print(*write(map(Path, sys.argv[1:])), sep="\n")
