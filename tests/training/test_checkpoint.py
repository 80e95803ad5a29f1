import json
import random

import pytest
import runs
import torch

from pyeqgan.errors import UserError
from pyeqgan.training.checkpoint import (
    DamagedCheckpointError,
    checkpoints,
    load_checkpoint,
    load_latest,
    save_checkpoint,
)

ABOUT = {"model": {"width": 0.1, "names": ["a", "ü"]}, "none": None}
PARTS = ("generator", "discriminator", "ema", "training")
FILES = ("manifest.json", *(f"{part}.safetensors" for part in PARTS))


def some_parts():
    return {
        "generator": {"weight": torch.randn(3, 4), "count": torch.tensor(7)},
        "discriminator": {"weight": torch.randn(5, 2).t()},
        "ema": {"weight": torch.randn(4, dtype=torch.float64).to(torch.bfloat16)},
        "training": {"generator.0.step": torch.tensor(3.0), "empty": torch.empty(0)},
    }


def save(folder, *steps):
    saved = {step: some_parts() for step in steps}
    for step, parts in saved.items():
        save_checkpoint(folder, step, parts, ABOUT)
    return saved


def assert_equal(parts, expected):
    assert parts.keys() == expected.keys()
    for part, tensors in expected.items():
        assert parts[part].keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert parts[part][name].dtype == tensor.dtype
            assert torch.equal(parts[part][name], tensor)


def test_what_is_saved_is_read_again(tmp_path):
    saved = save(tmp_path / "checkpoints", 5)
    for place in (tmp_path, tmp_path / "checkpoints", tmp_path / "checkpoints" / "step_00000005"):
        found = load_latest(place, pytest.fail)
        assert (found.step, found.about) == (5, ABOUT)
        assert_equal(found.parts, saved[5])


def test_only_the_parts_asked_for_are_read(tmp_path):
    save(tmp_path, 5)
    (tmp_path / "step_00000005" / "training.safetensors").unlink()
    assert load_latest(tmp_path, pytest.fail, ["ema"]).parts.keys() == {"ema"}


def test_the_last_two_are_kept_and_foreign_files_with_them(tmp_path):
    save(tmp_path, 5)
    (tmp_path / "step_00000005" / "notes.txt").write_text("mine")
    save(tmp_path, 90, 200, 1000)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_00000005", "step_00000200", "step_00001000"]
    assert [path.name for path in (tmp_path / "step_00000005").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", ["flipped bit", "truncated", "longer", "missing", "zeros"])
def test_damage_is_noticed_and_the_checkpoint_before_is_taken(tmp_path, file, damage, seed):
    saved = save(tmp_path, 1, 2)
    path = tmp_path / "step_00000002" / file
    data = bytearray(path.read_bytes())
    place = random.Random(seed).randrange(len(data))
    if damage == "flipped bit":
        data[place] ^= 1 << seed % 8
    elif damage == "truncated":
        del data[place:]
    elif damage == "longer":
        data += b"x"
    elif damage == "zeros":
        data[:] = bytes(len(data))
    path.unlink() if damage == "missing" else path.write_bytes(data)

    with pytest.raises(DamagedCheckpointError, match=f"step_00000002 is damaged: {file}"):
        load_checkpoint(path.parent)
    told = []
    found = load_latest(tmp_path, told.append)
    assert found.step == 1
    assert_equal(found.parts, saved[1])
    assert len(told) == 1 and file in told[0]


def test_every_digit_of_the_manifest_counts(tmp_path):
    save(tmp_path, 1)
    path = tmp_path / "step_00000001" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["step"] = 2
    path.write_text(json.dumps(manifest))
    with pytest.raises(DamagedCheckpointError, match="checksum"):
        load_checkpoint(path.parent)


def test_nothing_good_is_an_error(tmp_path):
    with pytest.raises(UserError, match="no checkpoint in"):
        load_latest(tmp_path, pytest.fail)
    save(tmp_path, 1, 2)
    for path in checkpoints(tmp_path):
        (path / "ema.safetensors").write_bytes(b"")
    told = []
    with pytest.raises(UserError, match="every checkpoint"):
        load_latest(tmp_path, told.append)
    assert len(told) == 2


def test_another_format_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("pyeqgan.training.checkpoint.FORMAT", 2)
    save(tmp_path, 1)
    monkeypatch.undo()
    with pytest.raises(UserError, match="has format 2, expected 1"):
        load_latest(tmp_path, pytest.fail)


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path):
    saved = save(tmp_path, 1)
    large = {**some_parts(), "training": {"moments": torch.randn(20_000)}}
    with runs.full_disk(50_000), pytest.raises(UserError) as error:
        save_checkpoint(tmp_path, 2, large, ABOUT)
    assert str(error.value) == f"cannot write {tmp_path / 'step_00000002'}: File too large"
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000001"]
    assert_equal(load_latest(tmp_path, pytest.fail).parts, saved[1])


def test_what_a_killed_process_left_is_no_checkpoint_and_goes_with_the_next(tmp_path):
    save(tmp_path, 1)
    (tmp_path / ".step_00000002").mkdir()
    (tmp_path / ".step_00000002" / "ema.safetensors").write_bytes(b"half")
    assert load_latest(tmp_path, pytest.fail).step == 1
    save(tmp_path, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_00000001", "step_00000003"]
