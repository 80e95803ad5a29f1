import os
import shutil
import signal
import sys
import threading

import pytest
import runs
import torch
import yaml

from pyeqgan.cli import main
from pyeqgan.data import EpisodeSampler
from pyeqgan.errors import UserError
from pyeqgan.training.checkpoint import checkpoints, load_latest
from pyeqgan.training.engine import Engine
from pyeqgan.training.run_folder import RunFolder, open_run, read_config

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return runs.write_photos(tmp_path_factory.mktemp("data") / "photos")


@pytest.fixture(scope="module")
def straight(photos, tmp_path_factory):
    """A run of 4 steps that nothing disturbed; not to be changed."""
    path = tmp_path_factory.mktemp("straight") / "run"
    status, told = runs.run(photos, path)
    assert status == 0
    return path, told


@pytest.fixture
def finished(straight, tmp_path):
    """A copy of it, to be changed."""
    return shutil.copytree(straight[0], tmp_path / "finished")


def at_step(monkeypatch, step, action):
    """Do `action` when the step after `step` others is done."""
    advance = Engine.advance

    def advance_and_act(engine, batch):
        losses = advance(engine, batch)
        if engine.step == step + 1:
            action()
        return losses

    monkeypatch.setattr(Engine, "advance", advance_and_act)


def names(path):
    return sorted(str(file.relative_to(path)) for file in path.rglob("*") if file.is_file())


def test_what_a_run_leaves(straight, photos):
    path, told = straight
    parts = ("discriminator.safetensors", "ema.safetensors", "generator.safetensors", "manifest.json")
    kept = [f"checkpoints/step_0000000{step}/{f}" for step in (2, 4) for f in (*parts, "training.safetensors")]
    assert names(path) == sorted([*kept, "config.yaml", "losses.png", "metrics.jsonl", "samples/step_00000004.png"])
    assert [line["step"] for line in runs.losses(path)] == [1, 2, 3, 4]
    lines = told.splitlines()
    assert [line.split("  ")[0] for line in lines[:-1]] == [f"step {step}/4" for step in (1, 2, 3, 4)]
    assert all("steps/s" in line and "left" in line and "hinge_real" in line for line in lines[:-1])
    assert lines[-1] == f"finished: 4 steps in {path}"


def test_the_configuration_is_resolved_and_read_back(straight, photos):
    path, _ = straight
    assert read_config(path) == runs.run_options(photos.resolve(), path, seen_classes=3, device="cpu")
    about = load_latest(path, pytest.fail).about
    assert about["options"] == read_config(path).to_dict()
    assert about["classes"] == ["a", "b", "c"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_a_checkpoint_and_resuming_is_bitwise_the_same(
    straight, photos, tmp_path, monkeypatch, number
):
    handlers = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    at_step(monkeypatch, 2, lambda: os.kill(os.getpid(), number))
    status, told = runs.run(photos, tmp_path / "run")
    assert status == 128 + number
    assert "interrupted at step 3: --resume continues" in told
    assert load_latest(tmp_path / "run", pytest.fail).step == 3
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == handlers

    monkeypatch.undo()
    status, told = runs.run(photos, tmp_path / "run", resume=True)
    assert status == 0 and f"resuming {tmp_path / 'run'} at step 3" in told
    runs.assert_same_end(straight[0], tmp_path / "run", 4)


def test_a_signal_between_steps_is_heard_after_the_next_one(photos, tmp_path, monkeypatch):
    save_sample = RunFolder.save_sample

    def interrupt(folder, step, picture):
        if step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return save_sample(folder, step, picture)

    monkeypatch.setattr(RunFolder, "save_sample", interrupt)
    status, told = runs.run(photos, tmp_path / "run", sample_every=1, checkpoint_every=100)
    assert status == 128 + signal.SIGTERM and "interrupted at step 2" in told
    assert load_latest(tmp_path / "run", pytest.fail).step == 2


def test_without_a_checkpoint_yet_a_run_starts_again(straight, photos, tmp_path, monkeypatch):
    def break_off():
        raise RuntimeError("as if killed")

    at_step(monkeypatch, 0, break_off)
    with pytest.raises(RuntimeError):
        runs.run(photos, tmp_path / "run")
    monkeypatch.undo()
    status, told = runs.run(photos, tmp_path / "run", resume=True)
    assert status == 0 and "at step 0, as it has no checkpoint yet" in told
    runs.assert_same_end(straight[0], tmp_path / "run", 4)


def test_a_damaged_checkpoint_is_set_aside_and_the_end_is_bitwise_the_same(straight, photos, finished):
    last = finished / "checkpoints" / "step_00000004"
    (last / "training.safetensors").write_bytes(b"short")
    status, told = runs.run(photos, finished, resume=True)
    assert status == 0
    assert "step_00000004 is damaged: training.safetensors" in told and "at step 2" in told
    assert (finished / "checkpoints" / "damaged_step_00000004" / "training.safetensors").read_bytes() == b"short"
    runs.assert_same_end(straight[0], finished, 4)


def test_with_every_checkpoint_damaged_nothing_is_restarted(photos, finished):
    for path in checkpoints(finished / "checkpoints"):
        (path / "manifest.json").write_text("{}")
    before = names(finished)
    with pytest.raises(UserError, match="every checkpoint"):
        runs.run(photos, finished, resume=True)
    assert names(finished) == before


def test_a_finished_run_says_so(photos, finished):
    before = {name: (finished / name).read_bytes() for name in names(finished)}
    status, told = runs.run(photos, finished, resume=True)
    assert (status, told) == (0, f"{finished} is finished: all its 4 steps are done\n")
    assert {name: (finished / name).read_bytes() for name in names(finished)} == before


def test_more_steps_extend_it_and_fewer_are_refused(photos, finished):
    assert runs.run(photos, finished, resume=True, steps=6, checkpoint_every=1)[0] == 0
    rates = [line["learning_rate"] for line in runs.losses(finished)]
    assert rates[:4] == [1e-4, 1e-4, 1e-4, 5e-5], "of 4 steps"
    assert rates[4:] == [1e-4 * 2 / 3, 1e-4 / 3], "of 6 steps"
    assert read_config(finished).steps == 6
    with pytest.raises(UserError, match="--steps 5, expected at least 6"):
        runs.run(photos, finished, resume=True, steps=5)
    assert read_config(finished).steps == 6


def test_options_that_would_make_it_another_run_are_named(photos, finished, tmp_path):
    with pytest.raises(UserError) as error:
        runs.run(photos, finished, resume=True, width=0.25, batch_size=3, shots=1, seed=5, image_size=48)
    told = str(error.value)
    for change in ("--width was 0.125, now 0.25", "--batch-size was 2, now 3", "--shots was 2, now 1"):
        assert change in told
    assert "--seed was 0, now 5" in told and "--image-size was 32, now 48" in told and "\n" not in told
    other = runs.write_photos(tmp_path / "other", images=5)
    with pytest.raises(UserError, match=f"the seen classes of {other} are not what they were"):
        runs.run(other, finished, resume=True, steps=6)


def test_other_classes_under_the_same_path_are_noticed(photos, tmp_path):
    data = shutil.copytree(photos, tmp_path / "data")
    runs.run(data, tmp_path / "run", steps=1)
    (data / "a").rename(data / "aa")
    with pytest.raises(UserError, match=r"the seen classes of .* are not what they were"):
        runs.run(data, tmp_path / "run", steps=2, resume=True)


def test_a_run_is_only_replaced_by_force_and_foreign_files_stay(straight, photos, finished):
    before = names(finished)
    with pytest.raises(UserError, match="already holds a run: --resume continues it, --force replaces it"):
        runs.run(photos, finished)
    assert names(finished) == before
    foreign = ("notes.txt", "samples/mine.png", "checkpoints/step_00000002/mine")
    for name in foreign:
        (finished / name).write_text("mine")
    assert runs.run(photos, finished, force=True, steps=1)[0] == 0
    left = [name for name in names(finished) if not name.startswith("checkpoints/step_00000001/")]
    assert left == sorted([*foreign, "config.yaml", "losses.png", "metrics.jsonl", "samples/step_00000001.png"])
    assert [line["step"] for line in runs.losses(finished)] == [1]


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("file", ["thesis.tex", "config.yaml"])
def test_a_folder_of_somebody_else_is_never_touched(photos, tmp_path, force, file):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / file).write_text("title: mine")
    with pytest.raises(UserError, match=r"holds no run|is not the configuration|already holds a run"):
        runs.run(photos, tmp_path / "home", force=force)
    assert names(tmp_path / "home") == [file]
    assert (tmp_path / "home" / file).read_text() == "title: mine"


def test_two_processes_cannot_share_a_run(photos, finished):
    options = runs.run_options(photos.resolve(), finished, resume=True, seen_classes=3)
    with open_run(options), pytest.raises(UserError, match="in use by another"):
        runs.run(photos, finished, resume=True)
    with open_run(options):
        pass


def test_a_loss_that_is_not_finite_is_named_and_the_checkpoint_before_stays(photos, finished, monkeypatch):
    advance = Engine.advance

    def overflow(engine, batch):
        losses = advance(engine, batch)
        return {**losses, "discriminator/penalty": losses["discriminator/penalty"] / 0} if engine.step == 6 else losses

    monkeypatch.setattr(Engine, "advance", overflow)
    with pytest.raises(UserError) as error:
        runs.run(photos, finished, resume=True, steps=9, log_every=4)
    message = "training stopped: discriminator/penalty is inf at step 6; the last checkpoint is of step 4"
    assert str(error.value) == message
    assert load_latest(finished, pytest.fail).step == 4


def test_a_real_divergence_is_stopped(photos, tmp_path):
    with pytest.raises(UserError, match=r"training stopped: .* (is (nan|-?inf) at step|is not finite after step)"):
        runs.run(photos, tmp_path / "run", learning_rate=1e30, steps=20, checkpoint_every=1)
    for path in checkpoints(tmp_path / "run" / "checkpoints"):
        parts = load_latest(path, pytest.fail).parts
        assert all(tensor.isfinite().all() for tensors in parts.values() for tensor in tensors.values())


def test_a_full_disk_ends_the_run_and_the_checkpoint_before_is_good(straight, photos, finished):
    shutil.rmtree(finished / "checkpoints" / "step_00000004")
    with runs.full_disk(200_000), pytest.raises(UserError) as error:
        runs.run(photos, finished, resume=True)
    path = finished / "checkpoints" / "step_00000004"
    assert str(error.value) == f"cannot write {path}: File too large; the last checkpoint is of step 2"
    assert runs.run(photos, finished, resume=True)[0] == 0
    runs.assert_same_end(straight[0], finished, 4)


def test_images_that_cannot_be_read_are_named_once_and_end_no_run(photos, tmp_path, monkeypatch, capsys):
    """Of a seen class, and the first of the unseen one, which pictures show; resumed, it is the same run."""
    data = shutil.copytree(photos, tmp_path / "data")
    for name in ("a/0.png", "d/0.png"):
        (data / name).write_bytes(b"\x89PNG no more")
    whole = {"steps": 8, "checkpoint_every": 4, "sample_every": 4, "shots": 2}
    status, told = runs.run(data, tmp_path / "straight", **whole)
    assert status == 0
    for name in ("a/0.png", "d/0.png"):
        assert told.count(f"cannot read image '{data / name}': not an image; another takes its place") == 1
    kept = (tmp_path / "straight" / "unreadable.txt").read_text().splitlines()
    assert len(kept) == 2
    assert "gave their places to others: 2, see unreadable.txt" in told

    at_step(monkeypatch, 5, lambda: signal.raise_signal(signal.SIGINT))
    first = runs.run(data, tmp_path / "run", **whole)
    monkeypatch.undo()
    status, again = runs.run(data, tmp_path / "run", resume=True, **whole)
    assert status == 0 and again.count("another takes its place") + first[1].count("another takes its place") == 2
    assert "gave their places to others: 2, see" in again
    runs.assert_same_end(tmp_path / "straight", tmp_path / "run", 8)

    assert main(["report", str(tmp_path / "run"), "--samples", "0"]) == 0
    page = (tmp_path / "run" / "report.html").read_text()
    assert "gave their places to others: 2" in page and "d/0.png" in page
    assert runs.run(photos, tmp_path / "run", force=True, steps=1)[0] == 0
    assert not (tmp_path / "run" / "unreadable.txt").exists()


def test_with_strict_data_the_first_image_that_cannot_be_read_ends_it(photos, tmp_path):
    data = shutil.copytree(photos, tmp_path / "data")
    (data / "a" / "0.png").write_bytes(b"\x89PNG no more")
    with pytest.raises(UserError, match=r"cannot read image .*0\.png.*; there is no checkpoint yet"):
        runs.run(data, tmp_path / "run", steps=40, checkpoint_every=100, strict_data=True)


def test_a_class_of_which_nothing_can_be_read_ends_it(photos, tmp_path):
    data = shutil.copytree(photos, tmp_path / "data")
    for path in (data / "a").iterdir():
        path.write_bytes(b"")
    with pytest.raises(UserError, match="none of the 3 images of class 'a' can be read: cannot read image"):
        runs.run(data, tmp_path / "run", steps=40, checkpoint_every=100)


def test_without_matplotlib_there_are_no_curves_and_one_line_says_so(photos, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    status, told = runs.run(photos, tmp_path / "run", steps=2, sample_every=1)
    assert status == 0
    assert told.count("matplotlib is not installed") == 1
    assert not (tmp_path / "run" / "losses.png").exists()
    assert (tmp_path / "run" / "samples" / "step_00000002.png").exists()


def test_a_run_honours_the_deterministic_flag(photos, tmp_path, monkeypatch):
    seen = []
    at_step(monkeypatch, 0, lambda: seen.append(torch.are_deterministic_algorithms_enabled()))
    for flag in (True, False):
        assert runs.run(photos, tmp_path / str(flag), steps=1, deterministic=flag)[0] == 0
    assert seen == [True, False] and not torch.are_deterministic_algorithms_enabled()


def test_the_share_of_waiting_is_in_the_metrics(straight):
    shares = [line["data_wait"] for line in RunFolder(straight[0]).metrics()]
    assert len(shares) == 4 and all(0 <= share <= 1 for share in shares)


def test_the_number_of_workers_changes_nothing(straight, photos, tmp_path):
    assert runs.run(photos, tmp_path / "run", workers=5, prefetch=2)[0] == 0
    runs.assert_same_end(straight[0], tmp_path / "run", 4)


def test_a_worker_that_dies_ends_the_run_with_its_own_error(straight, photos, finished, monkeypatch):
    episode = EpisodeSampler.episode

    def die(sampler, step):
        if step == 5:
            raise SystemError("a decoder's own fault")
        return episode(sampler, step)

    monkeypatch.setattr(EpisodeSampler, "episode", die)
    with pytest.raises(SystemError, match="a decoder's own fault") as error:
        runs.run(photos, finished, resume=True, steps=8)
    assert any(entry.name == "die" for entry in error.traceback), "it tells where"
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("episodes")]
    assert load_latest(finished, pytest.fail).step == 4


def test_a_terminal_gets_a_bar(photos, tmp_path):
    import io

    from rich.console import Console

    from pyeqgan.training.run import train

    console = Console(file=io.StringIO(), force_terminal=True, width=160)
    assert train(runs.run_options(photos, tmp_path / "run", steps=2), console) == 0
    told = console.file.getvalue()
    assert "2/2" in told and "steps/s" in told and "\x1b[" in told


def test_config_yaml_edited_by_hand(finished):
    config = finished / "config.yaml"
    values = yaml.safe_load(config.read_text())
    config.write_text(yaml.safe_dump({**values, "learning_rate": "1e-4"}))  # how YAML reads 1e-4
    assert read_config(finished).learning_rate == 1e-4
    for name, value in {"width": "wide", "fusion": "none", "steps": 1.5, "colour": "red"}.items():
        config.write_text(yaml.safe_dump({**values, name: value}))
        with pytest.raises(UserError, match=name):
            read_config(finished)
    config.write_text("a: [")
    with pytest.raises(UserError, match="cannot read"):
        read_config(finished)
