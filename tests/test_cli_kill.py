"""A run in a process of its own, killed the hard way and the soft way."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import runs

from pyeqgan.training.checkpoint import load_latest

EVERY = 2
PATIENCE = 240  # seconds, far more than anything takes on a busy machine
pytestmark = [pytest.mark.timeout(900), pytest.mark.usefixtures("one_thread")]


def train(data, output, *, steps, flags=runs.FLAGS):
    """The command."""
    intervals = ["--checkpoint-every", str(EVERY), "--log-every", "1", "--steps", str(steps)]
    arguments = ["train", "--data", str(data), "--output", str(output), "--device", "cpu", *flags, *intervals]
    return [sys.executable, "-m", "pyeqgan", *arguments]


def start(data, output, *, steps, flags=runs.FLAGS):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = train(data, output, steps=steps, flags=flags)
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


SMALL_DISK = """
mount -t tmpfs -o size={size} none {disk} || exit 77
"$@"; status=$?
cp -a {disk}/run {copy}
exit $status
"""


def on_a_small_disk(tmp_path, size, command):
    """Run a command with a file system of `size` bytes of its own at tmp_path/disk; skips where none can be mounted."""
    disk, copy = tmp_path / "disk", tmp_path / "copy"
    disk.mkdir()
    script = SMALL_DISK.format(size=size, disk=disk, copy=copy)
    apart = ["unshare", "--map-root-user", "--mount", "sh", "-c", script, "sh", *map(str, command)]
    try:
        done = subprocess.run(apart, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    except FileNotFoundError:
        pytest.skip("no unshare to mount a small file system with; test_engine_run limits the size of files instead")
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip(f"no small file system can be mounted here: {done.stderr.strip()}")
    return done, copy


def wait_for_steps(process, output, step):
    """Wait until the metrics have reached `step`."""
    metrics = output / "metrics.jsonl"
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        lines = metrics.read_text().splitlines() if metrics.exists() else []
        if len(lines) >= step:
            return
        time.sleep(0.01)
    process.kill()
    pytest.fail(f"no step {step}: {process.communicate()[0]}")


@pytest.mark.parametrize("model", runs.MODELS)
def test_a_killed_run_loses_at_most_the_interval_and_then_ends_as_if_nothing_had_been(tmp_path, model):
    write, flags, options = runs.MODELS[model]
    data, killed, straight = write(tmp_path / "data"), tmp_path / "killed", tmp_path / "straight"
    process = start(data, killed, steps=16, flags=flags)
    wait_for_steps(process, killed, 5)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    done = json.loads((killed / "metrics.jsonl").read_text().splitlines()[-1])["step"]
    assert 0 <= done - load_latest(killed, pytest.fail).step <= EVERY

    assert runs.trained(options(data, killed, steps=16, resume=True))[0] == 0
    assert runs.trained(options(data, straight, steps=16))[0] == 0
    runs.assert_same_end(straight, killed, 16)


def test_a_real_disk_that_fills_up_ends_the_run_with_its_last_checkpoint(tmp_path):
    data, straight = runs.write_photos(tmp_path / "photos"), tmp_path / "straight"
    assert runs.run(data, straight, steps=8)[0] == 0
    checkpoint = sum(file.stat().st_size for file in (straight / "checkpoints" / "step_00000008").iterdir())
    output = tmp_path / "disk" / "run"
    done, copy = on_a_small_disk(tmp_path, int(1.5 * checkpoint), train(data, output, steps=8))
    assert done.returncode == 2, done.stdout + done.stderr
    path = output / "checkpoints" / "step_00000004"
    expected = f"pyeqgan: cannot write {path}: No space left on device; the last checkpoint is of step 2"
    assert done.stderr.splitlines()[-1] == expected and "Traceback" not in done.stderr
    assert load_latest(copy, pytest.fail).step == 2
    assert runs.run(data, copy, steps=8, resume=True)[0] == 0
    runs.assert_same_end(straight, copy, 8)


def test_a_terminated_run_loses_nothing(tmp_path):
    data, output = runs.write_photos(tmp_path / "photos"), tmp_path / "run"
    process = start(data, output, steps=1000)
    wait_for_steps(process, output, 3)
    process.send_signal(signal.SIGTERM)
    told, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + signal.SIGTERM, told
    done = json.loads((output / "metrics.jsonl").read_text().splitlines()[-1])["step"]
    assert load_latest(output, pytest.fail).step == done
    assert told.splitlines()[-1] == f"interrupted at step {done}: --resume continues from there"
    assert "Traceback" not in told
