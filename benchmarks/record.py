"""Measure everything and keep it: ``python -m pyeqgan.benchmarks.record``, which is what ``make bench`` runs.

The raw numbers go to ``<results>/<machine>/<date>.json``; the report of that folder is made anew.
"""

from __future__ import annotations

import argparse
import getpass
import os
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from pyeqgan.benchmarks import harness, machine, report
from pyeqgan.errors import UserError


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 1 if a case did not match its eager form, 2 for wrong arguments."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog="python -m pyeqgan.benchmarks.record", description=__doc__)
    parser.add_argument("--op", nargs="*", default=[], metavar="OPERATION", help="default: all")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=30, help="interleaved rounds of a case, at most")
    parser.add_argument("--stages", nargs="+", choices=list(harness.STAGES), default=["forward+backward"])
    parser.add_argument("--no-compiled", action="store_true", help="leave torch.compile out")
    parser.add_argument("--no-scaling", action="store_true", help="leave the contrastive loss against size out")
    parser.add_argument("--no-steps", action="store_true", help="leave whole training steps out")
    parser.add_argument("--tiny", action="store_true", help="tiny cases, to try the tools")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"), help="default: %(default)s")
    options = parser.parse_args(given)
    where = machine.environment()
    capability = os.environ.get("ATEN_CPU_CAPABILITY")
    label = "-".join(filter(None, (machine.label(where), capability)))
    target = options.results / label / f"{where['date'].replace(':', '')}.json"
    if capability:  # what torch.compile keeps for one instruction set breaks a process that runs another
        cache = Path(tempfile.gettempdir()) / f"torchinductor-{getpass.getuser()}-{capability}"
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache))
    told = [
        a for a, before in zip(given, ["", *given], strict=False) if "--results" not in (before, a.partition("=")[0])
    ]
    command = shlex.join(["python", "-m", "pyeqgan.benchmarks.record", *told])
    try:
        status = harness.main(
            options.op,
            threads=options.threads,
            rounds=options.rounds,
            compiled=not options.no_compiled,
            stages=options.stages,
            scaled=not options.no_scaling,
            steps=not options.no_steps,
            tiny=options.tiny,
            output=target,
            command=f"ATEN_CPU_CAPABILITY={capability} {command}" if capability else command,
        )
    except UserError as error:
        print(f"record: {error}", file=sys.stderr)
        return 2
    for page in report.write(sorted(target.parent.glob("*.json"))):
        print(page)
    return status


if __name__ == "__main__":
    sys.exit(main())
