"""SIGKILL again and again, at random instants and in the middle of every kind of write."""

import dying
import pytest
import runs

from pyeqgan.errors import UserError
from pyeqgan.options import EqGANOptions
from pyeqgan.training.checkpoint import checkpoints, load_checkpoint
from pyeqgan.training.run_folder import RunFolder

pytestmark = pytest.mark.usefixtures("one_thread")

STEPS = {"steps": 8, "checkpoint_every": 1, "sample_every": 2}


@pytest.mark.parametrize("count", [6, pytest.param(120, marks=[pytest.mark.slow, pytest.mark.timeout(3000)])])
def test_a_run_that_is_killed_again_and_again_ends_as_if_nothing_had_been(tmp_path, seed, count):
    data, killed, straight = runs.write_photos(tmp_path / "photos"), tmp_path / "killed", tmp_path / "straight"
    deaths = dying.random_deaths(seed, count)
    kept = codes = 0
    for death in deaths:
        code = dying.run_until_killed(data, killed, **death, **STEPS)
        codes += code == -9
        assert code in (0, -9), f"{death}: ended by itself with {code}"
        # The last one may be a copy that only its name makes whole: what has its name must be good.
        steps = [load_checkpoint(path).step for path in checkpoints(killed / "checkpoints")[-1:]]
        assert max(steps, default=0) >= kept, "nothing that was saved is lost"
        kept = max(steps, default=0)
        if kept == STEPS["steps"]:  # from the beginning
            assert runs.run(data, killed, resume=True, **STEPS)[0] == 0
            break
    print(f"{codes} killed, at step {kept}")
    assert codes
    assert runs.run(data, killed, resume=(killed / "config.yaml").exists(), **STEPS)[0] == 0
    assert runs.run(data, straight, **STEPS)[0] == 0
    runs.assert_same_end(straight, killed, STEPS["steps"])


@pytest.mark.parametrize("touches", range(1, 6))
def test_a_run_killed_before_it_has_a_configuration_can_be_started_again(tmp_path, touches):
    data, output = runs.write_photos(tmp_path / "photos"), tmp_path / "run"
    assert dying.run_until_killed(data, output, seconds=None, touches=touches, steps=1) == -9
    assert runs.run(data, output, resume=(output / "config.yaml").exists(), steps=1)[0] == 0


@pytest.mark.parametrize(
    ("written", "write"),
    [
        (".config.yaml", lambda folder: folder.write_config(EqGANOptions(folder.path))),
        ("metrics.jsonl", lambda folder: folder.log({"step": 1, "loss": 0.5})),
        (".metrics.jsonl", lambda folder: (folder.log({"step": 1}), folder.forget_after(1))),
        (".losses.png", lambda folder: folder.save_curves(b"png")),
        ("samples/.step_00000001.png", lambda folder: folder.save_sample(1, runs.picture())),
    ],
)
def test_every_file_of_a_run_may_meet_a_full_disk(tmp_path, written, write):
    (tmp_path / "samples").mkdir()
    (tmp_path / written).symlink_to("/dev/full")  # every write to it fails for want of space
    with pytest.raises(UserError) as error:
        write(RunFolder(tmp_path))
    file = (tmp_path / written).with_name((tmp_path / written).name.removeprefix("."))
    assert str(error.value) == f"cannot write {file}: No space left on device"
