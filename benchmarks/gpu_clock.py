"""How long work takes a GPU: on the device alone, called from Python, and of the calling thread."""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Callable

import torch

Work = Callable[[], object]
FIELDS = ("clocks.sm", "clocks.mem", "clocks.max.sm", "power.draw", "temperature.gpu", "driver_version")


class GpuClock:
    """Seconds by three measures, each with the second-level cache emptied before.

    ``device``: a captured CUDA graph of the work, replayed: the kernels and nothing else. ``call``: the work as Python
    enqueues it, by events: launches included. ``host``: how long the calling thread is busy enqueuing it.
    """

    def __init__(self) -> None:
        cache = torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size
        self._other = torch.empty(2 * cache, dtype=torch.int8, device="cuda")

    def captured(self, work: Work) -> Work:
        """The work as a CUDA graph: calling the result replays it on the tensors it was captured with.

        Raises RuntimeError where the work cannot be captured, such as for a host synchronisation in it.
        """
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # libraries and allocator settle outside of the capture
            for _ in range(3):
                work()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            work()
        return graph.replay

    def device_seconds(self, work: Work) -> float:
        """By events around the work: of kernels alone if it is what `captured` returned, else with their launches."""
        self._other.zero_()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / 1e3

    def host_seconds(self, work: Work) -> float:
        """Of the calling thread, on a device with nothing to do."""
        torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        seconds = time.perf_counter() - start
        torch.cuda.synchronize()
        return seconds

    def peak_bytes(self, work: Work) -> int:
        """Memory that tensors take while the work runs, above those that are there."""
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        work()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before

    def roofs(self) -> dict[str, float]:
        """What the device does now: large products of bfloat16 and float32 in FLOP/s, a copy in bytes/s, both ways."""
        size, found = 8192, {}
        for dtype in (torch.bfloat16, torch.float32):
            a, b = (torch.randn(size, size, device="cuda", dtype=dtype) for _ in range(2))
            found[f"{dtype}".removeprefix("torch.")] = 2 * size**3 / self._median(lambda a=a, b=b: a @ b)
        source = torch.randint(256, (2**30,), dtype=torch.uint8, device="cuda")
        target = torch.empty_like(source)
        found["copy"] = 2 * source.nbytes / self._median(lambda: target.copy_(source))
        return found

    def _median(self, work: Work) -> float:
        return statistics.median([self.device_seconds(work) for _ in range(12)][2:])

    def state(self) -> dict[str, str]:
        """Clocks, power, temperature and driver as the driver's own tool tells them; they are read, never set."""
        command = ["nvidia-smi", f"--query-gpu={','.join(FIELDS)}", "--format=csv,noheader", "--id=0"]
        try:
            told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
        except (OSError, subprocess.SubprocessError) as error:
            return {"unknown": str(error)}
        return dict(zip(FIELDS, (value.strip() for value in told.split(",")), strict=False))
