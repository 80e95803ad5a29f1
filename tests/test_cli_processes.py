"""Runs of two processes as a user starts them: by --devices, by torchrun; ended, killed, resumed by another number."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import runs
import torch

from pyeqgan.options import GenerateOptions
from pyeqgan.trained import generate
from pyeqgan.training.checkpoint import load_latest
from pyeqgan.training.engine import Engine

STEPS = 1000  # more than any of these runs takes
TORCHRUN = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


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

    def advance_and_stop(engine, images, labels):
        losses = advance(engine, images, labels)
        if engine.step == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return losses

    patch.setattr(Engine, "advance", advance_and_stop)


def start(data, output, *arguments, launcher=()):
    settings = ["--checkpoint-every", "2", "--log-every", "1", "--steps", str(STEPS), "--device", "cpu", *runs.FLAGS]
    module = [*launcher, "pyeqgan", "train", "--data", str(data), "--output", str(output), *settings, *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen([sys.executable, "-m", *module], env=environment, start_new_session=True, **pipes)


def wait_for_step(process, output, step):
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if (output / "metrics.jsonl").exists() and len(runs.losses(output)) >= step:
            return
        time.sleep(0.01)
    end(process)
    pytest.fail(f"no step {step}: {process.communicate()[0]}")


def end(process):
    """Kill a run with all of its processes, which are a session."""
    os.killpg(process.pid, signal.SIGKILL)


def worker(process, rank):
    """The process that torchrun started as `rank`."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return next(int(c) for c in children if f"\0RANK={rank}\0" in Path(f"/proc/{c}/environ").read_text())


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
    told, _ = process.communicate(timeout=120)
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
    generate(GenerateOptions(output, images, tmp_path / "new", count=2, device="cpu"), print)
    assert (tmp_path / "new" / "generated_001.png").exists()


def test_torchrun_goes_on_with_two_processes_and_ends_with_the_first_that_dies(straight, tmp_path, monkeypatch):
    data, expected = straight
    output = tmp_path / "run"
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        runs.run(data, output, steps=STEPS)
    process = start(data, output, "--resume", launcher=TORCHRUN)
    wait_for_step(process, output, 5)
    os.kill(worker(process, 1), signal.SIGKILL)
    told, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "pyeqgan: process 0 stopped: another process of the run has ended" in told
    assert f"resuming {output} at step 2" in told

    last = load_latest(output, pytest.fail).step
    done = len(runs.losses(output))
    assert 4 <= last <= done <= last + 2
    stop_after(monkeypatch, last + 1)
    runs.run(data, output, steps=STEPS, resume=True)
    shared = min(last + 1, len(expected))
    assert_same_losses(runs.losses(output)[:shared], expected[:shared])
