"""Runs of two processes as a user starts them: by --devices, by torchrun; ended, killed, resumed by another number."""

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest
import runs

from pyeqgan.options import GenerateOptions
from pyeqgan.trained import generate
from pyeqgan.training.checkpoint import load_latest
from pyeqgan.training.engine import Engine

STEPS = 1000  # more than any of these runs takes
PATIENCE = 240  # seconds, far more than anything takes on a busy machine
pytestmark = [pytest.mark.timeout(900), pytest.mark.usefixtures("one_thread")]
TORCHRUN = ["torch.distributed.run", "--standalone", "--max-restarts", "1", "--nproc-per-node", "2", "-m"]


class Straight(NamedTuple):
    """A run of one process, 8 steps: its model, the data, the losses."""

    model: str
    data: Path
    losses: list

    def run(self, output, **changed):
        """The same, in this process."""
        options = runs.MODELS[self.model][2]
        return runs.trained(options(self.data, output, steps=STEPS, **changed))


@pytest.fixture(scope="module", params=runs.MODELS)
def straight(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight")
    data = runs.MODELS[request.param][0](folder / "data")
    straight = Straight(request.param, data, [])
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, 8)
        straight.run(folder / "run")
    straight.losses.extend(runs.losses(folder / "run"))
    return straight


def stop_after(patch, step):
    """Interrupt a run in this process when `step` steps are done."""
    advance = Engine.advance

    def advance_and_stop(engine, batch):
        losses = advance(engine, batch)
        if engine.step == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return losses

    patch.setattr(Engine, "advance", advance_and_stop)


def start(straight, output, *arguments, launcher=()):
    settings = ["--checkpoint-every", "2", "--log-every", "1", "--steps", str(STEPS), "--device", "cpu"]
    settings += runs.MODELS[straight.model][1]
    module = [*launcher, "pyeqgan", "train", "--data", str(straight.data), "--output", str(output)]
    module += [*settings, *arguments]
    # A restart meets the addresses of those before it in torchrun's store, unless each has its own.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    with open(log(output), "w") as file:
        pipes = {"stdout": file, "stderr": subprocess.STDOUT}
        return subprocess.Popen([sys.executable, "-m", *module], env=environment, **pipes)


def log(output):
    return output.with_suffix(".log")


def wait_for(process, output, what, happened):
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        if happened():
            return
        time.sleep(0.01)
    end(process)
    pytest.fail(f"no {what}: {log(output).read_text()}")


def wait_for_step(process, output, step):
    metrics = output / "metrics.jsonl"
    wait_for(process, output, f"step {step}", lambda: metrics.exists() and len(runs.losses(output)) >= step)


def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def end(process):
    """Kill a run with all of its processes."""
    for pid in (process.pid, *children(process.pid)) if process.poll() is None else ():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def is_unlocked(folder):
    """Whether the process that wrote there is gone: the kernel keeps its lock until then."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def worker(process, rank):
    """The process that torchrun started as `rank`."""
    found = children(process.pid)
    return next(pid for pid in found if f"\0RANK={rank}\0" in Path(f"/proc/{pid}/environ").read_text())


def assert_same_losses(found, straight, done):
    """To what rounding becomes in a few steps of float32, of those of the run that was never stopped."""
    shared = min(done, len(straight.losses))
    for mine, theirs in zip(found[:shared], straight.losses[:shared], strict=True):
        assert mine == pytest.approx(theirs, rel=2e-2, abs=1e-3)


def test_two_processes_share_the_weights_end_on_sigterm_and_one_goes_on(straight, tmp_path, monkeypatch):
    output = tmp_path / "run"
    process = start(straight, output, "--devices", "2", "--strategy", "fsdp")
    wait_for_step(process, output, 3)
    process.send_signal(signal.SIGTERM)
    process.wait(PATIENCE)
    told = log(output).read_text()
    assert process.returncode == 128 + signal.SIGTERM, told
    done = len(runs.losses(output))
    assert load_latest(output, pytest.fail).step == done
    assert told.splitlines()[-1] == f"interrupted at step {done}: --resume continues from there"
    assert len(told.splitlines()) == done + 1, told

    stop_after(monkeypatch, done + 2)
    straight.run(output, resume=True)  # by one process, of strategy auto
    assert_same_losses(runs.losses(output), straight, done + 2)
    if straight.model == "eqgan":
        given = {"images": tuple(sorted((straight.data / "d").iterdir())[:2]), "count": 2}
    else:
        given = {"layouts": (straight.data / "test" / "labels",)}
    generate(GenerateOptions(output, tmp_path / "new", **given, device="cpu"), print)
    assert (tmp_path / "new" / "grid.png").exists()


def test_torchrun_goes_on_with_two_processes_restarts_when_one_dies_and_is_killed_itself(
    straight, tmp_path, monkeypatch
):
    output = tmp_path / "run"
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        straight.run(output)
    process = start(straight, output, "--resume", launcher=TORCHRUN)
    wait_for_step(process, output, 5)
    os.kill(worker(process, 1), signal.SIGKILL)
    wait_for(process, output, "restart", lambda: log(output).read_text().count(f"resuming {output} at step ") == 2)
    told = log(output).read_text()
    assert "pyeqgan: process 0 stopped: another process of the run has ended" in told
    assert f"resuming {output} at step 2" in told

    wait_for_step(process, output, len(runs.losses(output)) + 1)
    end(process)
    deadline = time.monotonic() + PATIENCE
    while not is_unlocked(output) and time.monotonic() < deadline:
        time.sleep(0.01)
    last, done = load_latest(output, pytest.fail).step, len(runs.losses(output))
    assert 4 <= last <= done <= last + 2

    stop_after(monkeypatch, last + 1)
    straight.run(output, resume=True)
    assert_same_losses(runs.losses(output), straight, last + 1)
