"""A run in a process of its own, killed the hard way and the soft way."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import runs
import torch

from pyeqgan.training.checkpoint import load_latest

EVERY = 2


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def start(data, output, *, steps):
    intervals = ["--checkpoint-every", str(EVERY), "--log-every", "1", "--steps", str(steps)]
    arguments = ["train", "--data", str(data), "--output", str(output), "--device", "cpu", *runs.FLAGS, *intervals]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pyeqgan", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def wait_for_steps(process, output, step):
    """Wait until the metrics have reached `step`."""
    metrics = output / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        lines = metrics.read_text().splitlines() if metrics.exists() else []
        if len(lines) >= step:
            return
        time.sleep(0.01)
    process.kill()
    pytest.fail(f"no step {step}: {process.communicate()[0]}")


def test_a_killed_run_loses_at_most_the_interval_and_then_ends_as_if_nothing_had_been(tmp_path):
    data, killed, straight = runs.write_photos(tmp_path / "photos"), tmp_path / "killed", tmp_path / "straight"
    process = start(data, killed, steps=16)
    wait_for_steps(process, killed, 5)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    done = json.loads((killed / "metrics.jsonl").read_text().splitlines()[-1])["step"]
    assert 0 <= done - load_latest(killed, pytest.fail).step <= EVERY

    assert runs.run(data, killed, steps=16, resume=True)[0] == 0
    assert runs.run(data, straight, steps=16)[0] == 0
    runs.assert_same_end(straight, killed, 16)


def test_a_terminated_run_loses_nothing(tmp_path):
    data, output = runs.write_photos(tmp_path / "photos"), tmp_path / "run"
    process = start(data, output, steps=1000)
    wait_for_steps(process, output, 3)
    process.send_signal(signal.SIGTERM)
    told, _ = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM, told
    done = json.loads((output / "metrics.jsonl").read_text().splitlines()[-1])["step"]
    assert load_latest(output, pytest.fail).step == done
    assert told.splitlines()[-1] == f"interrupted at step {done}: --resume continues from there"
    assert "Traceback" not in told
