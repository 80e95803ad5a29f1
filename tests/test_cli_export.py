import json
import re
import sys

import pytest
import runs
import torch

from pyeqgan import cli
from pyeqgan.models import ECGANGenerator, EqGANGenerator
from pyeqgan.trained import averaged_generator
from pyeqgan.training.checkpoint import load_latest

HUB = ["README.md", "config.json", "model.safetensors"]


def train(model, path, **changed):
    write, _, options = runs.MODELS[model]
    assert runs.trained(options(write(path / "photos"), path / "run", steps=2, **changed))[0] == 0
    return path / "run"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return train("eqgan", tmp_path_factory.mktemp("trained"), shots=2, equalization="shared")


@pytest.fixture(scope="module")
def painter(tmp_path_factory):
    return train("ecgan", tmp_path_factory.mktemp("painter"))


@pytest.fixture
def export(trained, capsys):
    def export(output, *more, checkpoint=trained):
        capsys.readouterr()
        status = cli.main(["export", *map(str, ["--checkpoint", checkpoint, "--output", output, *more])])
        told = capsys.readouterr()
        return status, told.out, told.err

    return export


def names(folder):
    return sorted(path.name for path in folder.iterdir())


ABOUT = {
    EqGANGenerator: "2 steps on 3 classes: `a`, `b`, `c`",
    ECGANGenerator: "2 steps on 3 layouts of 3 classes, in the order of their labels from 0: `class 0`, `class 1`, "
    "`class 2`. In the files of these layouts 0 is the first class, and 255 is none.",
}


@pytest.mark.parametrize(("model", "run"), [(EqGANGenerator, "trained"), (ECGANGenerator, "painter")])
def test_a_hub_folder_holds_the_averaged_generator_and_its_card(export, request, tmp_path, monkeypatch, model, run):
    trained = request.getfixturevalue(run)
    status, out, err = export(tmp_path / "new", checkpoint=trained)
    assert (status, err) == (0, "")
    assert out.splitlines() == [
        f"{trained / 'checkpoints' / 'step_00000002'} as hub in {tmp_path / 'new'}",
        "the card tells of no evaluation: pyeqgan evaluate makes one, --evaluation names its folder",
        "the card states no license: --license names the one you choose",
    ]
    assert names(tmp_path / "new") == HUB
    loaded = model.from_pretrained(tmp_path / "new").state_dict()
    expected = averaged_generator(load_latest(trained, print, ["ema"])).state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in expected.items())
    card, found = run_card(tmp_path / "new", monkeypatch)
    size = 32 if model is EqGANGenerator else 16
    assert found["images"].shape == (16 if model is EqGANGenerator else 1, 3, size, size)
    assert ABOUT[model] in card and "| data | `photos` |" in card
    assert str(trained.parent) not in card


def test_the_card_shows_an_evaluation(export, tmp_path):
    numbers = {"note": "Only here.", "scores": {"copy": {"estimates": {"accuracy": {"value": 1.0, "interval": None}}}}}
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "metrics.json").write_text(json.dumps(numbers))
    status, out, _ = export(tmp_path / "new", "--evaluation", tmp_path / "evaluation", "--license", "cc0-1.0")
    assert status == 0 and out.count("\n") == 1
    card = (tmp_path / "new" / "README.md").read_text()
    assert "Only here." in card and "| copy | 1 |" in card and 'license: "cc0-1.0"' in card


def run_card(folder, monkeypatch):
    """Run the code that the card shows, as it stands; returns the card and what the code defines."""
    card = (folder / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    monkeypatch.chdir(folder)
    found = {}
    exec(code.replace("FOLDER", "."), found)
    return card, found


def test_a_program_is_exported_and_runs_as_its_card_says(export, tmp_path, monkeypatch):
    assert export(tmp_path / "new", "--format", "torch")[0] == 0
    assert names(tmp_path / "new") == ["README.md", "config.json", "model.pt2"]
    card, found = run_card(tmp_path / "new", monkeypatch)
    assert found["image"].shape == (4, 3, 32, 32) and found["image"].abs().max() <= 1
    assert "for side, count in {2: 2, 4: 8, 8: 32}.items()" in card and "B is free, and K from 3 on." in card


@pytest.mark.slow
def test_onnx_is_exported_and_runs_as_its_card_says(export, tmp_path, monkeypatch):
    assert export(tmp_path / "new", "--format", "onnx", "--shots", 2)[0] == 0
    assert names(tmp_path / "new") == ["README.md", "config.json", "model.onnx"]
    card, found = run_card(tmp_path / "new", monkeypatch)
    assert found["image"].shape == (4, 3, 32, 32)
    assert "B is free." in card


@pytest.mark.parametrize("form", ["torch", pytest.param("onnx", marks=pytest.mark.slow)])
def test_a_program_that_paints_layouts_runs_as_its_card_says(export, painter, tmp_path, monkeypatch, form):
    assert export(tmp_path / "new", "--format", form, checkpoint=painter)[0] == 0
    card, found = run_card(tmp_path / "new", monkeypatch)
    assert found["image"].shape == found["edges"].shape == (4, 3, 16, 16)
    assert "yours: 0 to 2, the classes below" in card and "B is free." in card


def test_only_an_earlier_export_is_replaced_and_with_force_alone(export, tmp_path):
    (tmp_path / "new").mkdir()
    assert export(tmp_path / "new")[0] == 0
    status, out, err = export(tmp_path / "new")
    assert (status, out) == (2, "")
    assert err == f"pyeqgan: {tmp_path / 'new'} already holds README.md: expected a new or empty folder\n"
    assert export(tmp_path / "new", "--force", "--license", "mit")[0] == 0
    assert 'license: "mit"' in (tmp_path / "new" / "README.md").read_text()
    (tmp_path / "new" / "mine").write_text("mine")
    status, _, err = export(tmp_path / "new", "--force")
    assert status == 2 and "already holds mine" in err
    assert names(tmp_path / "new") == sorted([*HUB, "mine"])


@pytest.mark.parametrize("form", ["hub", pytest.param("torch", marks=pytest.mark.slow)])
def test_a_full_disk_leaves_nothing(export, tmp_path, form):
    with runs.full_disk(20_000):
        status, out, err = export(tmp_path / "new", "--format", form)
    assert (status, out, err) == (2, "", f"pyeqgan: cannot write {tmp_path / 'new'}: File too large\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--evaluation", "none"], "no evaluation in none: expected a folder with metrics.json"),
        (["--shots", "3"], "--shots: expected with --format onnx or torch; from a hub folder any number is fused"),
        (["--format", "torch", "--shots", "0"], "--shots 0, expected at least 1"),
        (["--checkpoint", "none"], "no checkpoint in none: expected the folder of a run or of a checkpoint"),
    ],
)
def test_mistakes_are_told_on_one_line_and_nothing_is_written(export, tmp_path, more, told):
    status, out, err = export(tmp_path / "new", *more)
    assert (status, out, err) == (2, "", f"pyeqgan: {told}\n")
    assert not (tmp_path / "new").exists()


def test_a_missing_package_is_named(export, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    status, out, err = export(tmp_path / "new", "--format", "onnx")
    assert (status, out) == (2, "") and err == "pyeqgan: ONNX needs onnxscript: pip install 'pyeqgan[export]'\n"
    assert not (tmp_path / "new").exists()
