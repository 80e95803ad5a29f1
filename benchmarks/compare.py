"""Is the working tree slower than a commit? ``python -m pyeqgan.benchmarks.compare BASE``, or ``make bench-compare``.

Both are built from copies in a temporary folder; nothing in the checkout changes. Two processes then run the working
tree's cases in turn, A B, B A, …, on the same inputs. The status is 1 if the slowdown of a case exceeds 5 % at the
lower end of its 95 % interval, if a case of the working tree fails, or if no case ran on both.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyeqgan.benchmarks import harness
from pyeqgan.benchmarks.cases import Case, cases
from pyeqgan.errors import UserError

ALLOWED = 1.05
SHORTEST = 0.005  # seconds of one measurement: short cases run several times in it


class ComparisonError(Exception):
    """What stops a comparison, in one line."""


@dataclass(frozen=True)
class Comparison:
    """Head's time over base's on one case, with its 95 % interval."""

    name: str
    base: float
    head: float
    interval: tuple[float, float]

    @property
    def slower(self) -> bool:
        """Whether it is, beyond noise and by more than is allowed."""
        return self.interval[0] > ALLOWED


class Side:
    """A process that runs the cases on one build."""

    def __init__(self, name: str, library: Path, threads: int, stage: str, size: str) -> None:
        self.name = name
        command = [sys.executable, "-m", "pyeqgan.benchmarks.worker", str(threads), stage, size]
        # The first place `-m` looks at is the working folder. Idle threads must not spin beside the other side's.
        quiet = {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
        self.process = subprocess.Popen(
            command, cwd=library, env=os.environ | quiet, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        about = self.reply()
        if Path(about["package"]).resolve() != (library / "pyeqgan").resolve():
            raise ComparisonError(f"{name}: expected the package built from it, got {about['package']}")
        if not about["native"]:
            raise ComparisonError(f"{name}: its compiled module does not load")

    def ask(self, **request: Any) -> Any:
        """Send a request and wait for the answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self.reply()

    def reply(self) -> Any:
        """The next answer."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise ComparisonError(f"{self.name}: its process ended with status {self.process.wait()}")
        return json.loads(line)

    def seconds(self, repeats: int = 1) -> float:
        """One measurement of the prepared case."""
        return float(self.ask(run=repeats)["seconds"])

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def compare(base: Side, head: Side, name: str, *, rounds: int, budget: float) -> Comparison:
    """Measure the case that both have prepared, in turns."""
    longest = max(side.seconds() for side in (base, head))
    repeats = max(1, round(SHORTEST / max(longest, 1e-6)))
    times: dict[str, list[float]] = {base.name: [], head.name: []}
    start = time.perf_counter()
    for done in range(rounds):
        if done >= 5 and time.perf_counter() - start > budget:
            break
        for side in (base, head) if done % 2 == 0 else (head, base):
            times[side.name].append(side.seconds(repeats))
    ours, theirs = times[head.name], times[base.name]
    interval = harness.bootstrap_ratio(ours, theirs)
    return Comparison(name, statistics.median(theirs), statistics.median(ours), interval)


def compare_all(base: Side, head: Side, chosen: Sequence[tuple[int, Case]], *, rounds: int, budget: float) -> int:
    """Compare and print every case; returns the exit status."""
    found: list[Comparison] = []
    failed = 0
    for index, case in chosen:
        for layout in case.layouts:
            name = "  ".join(filter(None, (case.operation, case.variant, case.problem, layout)))
            answers = {side.name: side.ask(case=index, layout=layout) for side in (base, head)}
            problems = {n: a.get("problem") or _mismatch(a["error"]) for n, a in answers.items()}
            for side, problem in problems.items():
                if problem:
                    print(f"{name}\n    not on {side}: {problem}", flush=True)
            failed += bool(problems[head.name])
            if any(problems.values()):
                continue
            found.append(compare(base, head, name, rounds=rounds, budget=budget))
            print(line(found[-1]), flush=True)
    slower = sum(c.slower for c in found)
    print(f"{len(found)} compared, {slower} slower by more than {ALLOWED - 1:.0%}, {failed} failed on {head.name}")
    return 1 if slower or failed or not found else 0


def _mismatch(error: float) -> str:
    return "" if error < harness.TOLERANCE else f"relative error {error:.1e} against the eager form"


def line(c: Comparison) -> str:
    """One comparison for a person."""
    low, high = c.interval
    verdict = "  SLOWER" if c.slower else ""
    times = f"{c.base * 1e3:.3f} → {c.head * 1e3:.3f} ms"
    return f"{c.name}\n    {times}  ratio {c.head / c.base:.3f} [{low:.3f}, {high:.3f}]{verdict}"


def export(root: Path, commit: str | None, target: Path) -> Path:
    """A copy of a commit, or (None) of the working tree without what git ignores."""
    target.mkdir()
    if commit is not None:
        archive = target.with_suffix(".tar")
        command = ["git", "archive", f"--output={archive}", commit]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True)
        if done.returncode:
            raise ComparisonError(f"base: {done.stderr.strip().splitlines()[-1]}")
        shutil.unpack_archive(archive, target)
        return target
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(listed, cwd=root, capture_output=True, text=True, check=True).stdout.split("\0"):
        if name and (root / name).is_file():  # a tracked file may be deleted
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, target / name)
    return target


def build(name: str, sources: Path, benchmarks: Path) -> Path:
    """Compile a copy; returns the folder that holds its package, with the given benchmarks in the place of its own."""
    print(f"building {name} …", flush=True)
    command = [sys.executable, "setup.py", "-q", "build", "--build-base", "build"]
    done = subprocess.run(
        command, cwd=sources, env=os.environ | {"PYEQGAN_CUDA": "0"}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    if done.returncode:
        raise ComparisonError(f"{name} does not build: {done.stderr.decode().strip().splitlines()[-1]}")
    (library,) = sources.glob("build/lib*")
    shutil.rmtree(library / "pyeqgan/benchmarks", ignore_errors=True)
    shutil.copytree(benchmarks, library / "pyeqgan/benchmarks", ignore=shutil.ignore_patterns("results"))
    return library


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 2 where nothing could be compared at all."""
    parser = argparse.ArgumentParser(prog="python -m pyeqgan.benchmarks.compare", description=__doc__)
    parser.add_argument("base", help="the commit to compare the working tree with")
    parser.add_argument("--op", nargs="*", default=[], metavar="OPERATION", help="default: all")
    parser.add_argument("--threads", type=int, default=1, help="1: seconds of the processor; more: of the clock")
    parser.add_argument("--stage", choices=list(harness.STAGES), default="forward+backward")
    parser.add_argument("--rounds", type=int, default=30, help="of a case, at most")
    parser.add_argument("--budget", type=float, default=4.0, help="seconds for a case, about")
    parser.add_argument("--tiny", action="store_true", help="tiny cases, to try the tool")
    options = parser.parse_args(arguments)
    size = "tiny" if options.tiny else "model"
    here = Path(__file__).resolve().parent
    try:
        wanted = {c.operation for c in harness.select(options.op, tiny=options.tiny)}
        chosen = [(i, c) for i, c in enumerate(cases(tiny=options.tiny)) if c.operation in wanted]
        with tempfile.TemporaryDirectory(prefix="compare-") as folder, ExitStack() as stack:
            sides: list[Side] = []
            for name, commit in (("base", options.base), ("head", None)):
                library = build(name, export(here.parent, commit, Path(folder) / name), here)
                sides.append(Side(name, library, options.threads, options.stage, size))
                stack.callback(sides[-1].close)
            base, head = sides
            return compare_all(base, head, chosen, rounds=options.rounds, budget=options.budget)
    except (ComparisonError, UserError) as problem:
        print(f"compare: {problem}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
