"""What is installed here and what runs: ``python -m pyeqgan.info [--json]``."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import sys
from dataclasses import asdict
from typing import Any

import torch

import pyeqgan
import pyeqgan.functional  # defines the operations and loads their kernels
from pyeqgan import backends

_PACKAGES = ("torch", "triton", "numpy", "lightning-fabric", "tyro", "rich", "Pillow", "safetensors", "matplotlib")


def collect() -> dict[str, Any]:
    """Versions, processor, threads, GPUs, how the module was built, and the implementation of every operation."""
    native = backends.native_module()
    return {
        "pyeqgan": pyeqgan.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "cpu": {
            "capability": native.cpu_capability() if native else None,
            "torch_capability": torch.backends.cpu.get_cpu_capability(),
            "threads": torch.get_num_threads(),
        },
        "gpus": [_gpu(i) for i in range(torch.cuda.device_count())],
        "build": native.build_info() if native else None,
        "operations": {
            name: {device: asdict(choice) for device, choice in choices.items()}
            for name, choices in backends.explain().items()
        },
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _gpu(index: int) -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(index)
    return {
        "name": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "memory_bytes": properties.total_memory,
    }


def render(report: dict[str, Any]) -> str:
    """The report as lines for a person."""
    archs = build["cuda_archs"] if (build := report["build"]) else ""
    cpu = report["cpu"]
    capability = f"{cpu['capability'] or 'not built'}, torch's {cpu['torch_capability']}"
    packages = ", ".join(f"{name} {version or '(absent)'}" for name, version in report["packages"].items())
    lines = [
        f"pyeqgan {report['pyeqgan']}, Python {report['python']}, {report['platform']}",
        packages,
        f"cpu      kernels {capability}, {cpu['threads']} threads",
        f"build    {build['compiler']}, torch {build['torch']}, {build['flags']}" if build else "build    no module",
        f"cuda     {'compiled for ' + archs if archs else 'no CUDA kernels compiled'}",
        *(f"gpu      {g['name']}, {g['capability']}, {g['memory_bytes'] / 2**30:.0f} GiB" for g in report["gpus"]),
        *([] if report["gpus"] else ["gpu      none"]),
        "",
    ]
    width = max(map(len, report["operations"]))
    for name, choices in report["operations"].items():
        for device, choice in choices.items():
            lines.append(f"{name:{width}}  {device:4}  {choice['backend']:9}  {choice['reason']}")
    return "\n".join(lines)


def main_info(*, as_json: bool = False) -> int:
    """Print the report; returns the exit status."""
    report = collect()
    print(json.dumps(report, indent=2) if as_json else render(report))
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m pyeqgan.info", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    sys.exit(main_info(as_json=parser.parse_args().json))
