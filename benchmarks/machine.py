"""What the numbers were measured on: processor, versions, commit, and how far the process grows."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyeqgan import info


def environment(command: str | None = None) -> dict[str, Any]:
    """Versions, processor, commit, date and the command; nothing that names the host or its folders."""
    return {
        "date": time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime()),
        "commit": commit(),
        "processor": processor(),
        "processors": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]) if command is None else command,
        **info.collect(),
        "platform": f"{platform.system()} {platform.machine()}",
    }


def processor() -> str:
    """The processor's name for itself."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def label(environment: dict[str, Any]) -> str:
    """A short name of the machine for a folder: "intel-xeon-2-threads"."""
    name = re.sub(r"\((r|tm)\)|@.*|\b(cpu|processor)\b", " ", environment["processor"].lower())
    return f"{'-'.join(re.findall('[a-z0-9]+', name))}-{environment['processors']}-threads"


def commit() -> str | None:
    """The commit of the checkout these sources stand in, "-dirty" where they differ from it; None outside of one."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)  # the folder may lie in somebody else's repository
        return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (OSError, subprocess.CalledProcessError):
        return None


def peak_bytes(run: Callable[[], object]) -> int | None:
    """How far the process grows while ``run`` runs, in bytes; None where the system does not tell (Linux does)."""
    try:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        before = _status("VmRSS")
        run()
        return max(0, _status("VmHWM") - before)
    except (OSError, AttributeError):
        return None


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise OSError(field)
