"""Runs of two processes as a user starts them: by --devices, by torchrun; ended, killed, resumed by another number."""

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

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


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """Photos, and the losses of a run of one process, 8 steps."""
    folder = tmp_path_factory.mktemp("straight")
    data = runs.write_photos(folder / "photos")
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, 8)
        runs.run(data, folder / "run", steps=STEPS)
    return data, runs.losses(folder / "run")


def stop_after(patch, step):
    """Interrupt a run in this process when `step` steps are done."""
    advance = Engine.advance

    def advance_and_stop(engine, batch):
        losses = advance(engine, batch)
        if engine.step == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return losses

    patch.setattr(Engine, "advance", advance_and_stop)


def start(data, output, *arguments, launcher=()):
    settings = ["--checkpoint-every", "2", "--log-every", "1", "--steps", str(STEPS), "--device", "cpu", *runs.FLAGS]
    module = [*launcher, "pyeqgan", "train", "--data", str(data), "--output", str(output), *settings, *arguments]
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


def assert_same_losses(found, expected):
    """To what rounding becomes in a few steps of float32."""
    for mine, theirs in zip(found, expected, strict=True):
        assert mine == pytest.approx(theirs, rel=2e-2, abs=1e-3)


def test_two_processes_share_the_discriminator_end_on_sigterm_and_one_goes_on(straight, tmp_path, monkeypatch):
    data, expected = straight
    output = tmp_path / "run"
    process = start(data, output, "--devices", "2", "--strategy", "fsdp")
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
    runs.run(data, output, steps=STEPS, resume=True)  # by one process, of strategy auto
    shared = min(done + 2, len(expected))
    assert_same_losses(runs.losses(output)[:shared], expected[:shared])
    images = tuple(sorted((data / "d").iterdir())[:2])
    generate(GenerateOptions(output, tmp_path / "new", images, count=2, device="cpu"), print)
    assert (tmp_path / "new" / "generated_001.png").exists()


def test_torchrun_goes_on_with_two_processes_restarts_when_one_dies_and_is_killed_itself(
    straight, tmp_path, monkeypatch
):
    data, expected = straight
    output = tmp_path / "run"
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        runs.run(data, output, steps=STEPS)
    process = start(data, output, "--resume", launcher=TORCHRUN)
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
    runs.run(data, output, steps=STEPS, resume=True)
    shared = min(last + 1, len(expected))
    assert_same_losses(runs.losses(output)[:shared], expected[:shared])
