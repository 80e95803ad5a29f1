import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import runs
from PIL import Image

from pyeqgan import cli
from pyeqgan.errors import UserError
from pyeqgan.training.run_folder import RunFolder
from pyeqgan.training.tensorboard import TensorBoard

pytest.importorskip("tensorboard")
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return runs.write_photos(tmp_path_factory.mktemp("data") / "photos")


def told(run):
    """What TensorBoard shows of a run: values and pictures, by name and step."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"images": 0, "scalars": 0})
    events.Reload()
    tags = events.Tags()
    scalars = {name: [(e.step, e.value) for e in events.Scalars(name)] for name in tags["scalars"]}
    images = {name: [(e.step, e.encoded_image_string) for e in events.Images(name)] for name in tags["images"]}
    return scalars, images


def assert_as_in_the_metrics(run):
    scalars, _ = told(run)
    lines = RunFolder(run).metrics()
    assert set(scalars) == {name for line in lines for name in line} - {"step"}
    for name, values in scalars.items():
        expected = [(line["step"], line[name]) for line in lines if name in line]
        assert [step for step, _ in values] == [step for step, _ in expected], name
        np.testing.assert_allclose([v for _, v in values], [v for _, v in expected], rtol=1e-6)


def test_the_numbers_of_the_metrics_and_the_grids(photos, tmp_path):
    run = tmp_path / "run"
    assert runs.run(photos, run, tensorboard=True, sample_every=2)[0] == 0
    assert_as_in_the_metrics(run)
    _, images = told(run)
    assert [step for step, _ in images["samples"]] == [2, 4]
    for step, png in images["samples"]:
        (run / "shown.png").write_bytes(png)
        kept = np.asarray(Image.open(run / "samples" / f"step_{step:08d}.png"))
        assert np.array_equal(np.asarray(Image.open(run / "shown.png")), kept)


def test_a_resumed_run_tells_no_step_twice(photos, tmp_path):
    run = tmp_path / "run"
    assert runs.run(photos, run, tensorboard=True, steps=4, checkpoint_every=4)[0] == 0
    with TensorBoard(run, 4) as lost:  # a process that was killed at step 6, after its last checkpoint
        for step in (5, 6):
            lost.log(step, {"generator/adversarial": 1e6})
            lost.picture(step, Image.new("RGB", (8, 8)))
    assert runs.run(photos, run, tensorboard=True, steps=7, resume=True)[0] == 0
    assert_as_in_the_metrics(run)
    assert [step for step, _ in told(run)[1]["samples"]] == [4, 7]


def test_it_is_no_part_of_what_a_run_computes(photos, tmp_path):
    for name, shown in (("with", True), ("without", False)):
        assert runs.run(photos, tmp_path / name, tensorboard=shown)[0] == 0
    runs.assert_same_end(tmp_path / "with", tmp_path / "without", 4)
    assert not (tmp_path / "without" / "tensorboard").exists()
    assert runs.run(photos, tmp_path / "with", steps=5, resume=True)[0] == 0


def test_force_removes_its_files_and_no_others(photos, tmp_path):
    run = tmp_path / "run"
    runs.run(photos, run, tensorboard=True, steps=1)
    (run / "tensorboard" / "mine").write_text("mine")
    runs.run(photos, run, force=True, steps=1)
    assert [path.name for path in (run / "tensorboard").iterdir()] == ["mine"]


def test_a_full_disk_ends_it_with_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(threading, "excepthook", lambda _: None)  # TensorBoard's own thread ends with the same error

    def fill():
        with runs.full_disk(2000), TensorBoard(tmp_path, 0) as board:
            for step in range(100):
                board.log(step, {"generator/adversarial": 1.0})

    with pytest.raises(UserError, match=r"^cannot write .*tensorboard: File too large$"):
        fill()


def test_without_tensorboard_it_is_said_before_anything_is_done(photos, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    arguments = ["--output", tmp_path / "run", "--data", photos, "--tensorboard", *runs.FLAGS]
    assert cli.main(["train", *map(str, arguments)]) == 2
    assert capsys.readouterr().err == "pyeqgan: --tensorboard needs tensorboard: pip install 'pyeqgan[tensorboard]'\n"
    assert not (tmp_path / "run").exists()


def test_a_run_without_it_imports_nothing_of_it():
    code = "import sys, pyeqgan.training.run; print([m for m in sys.modules if m.startswith('tensorboard')])"
    root = Path(__file__).parent.parent.parent
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, timeout=120)
    assert done.stdout.strip() == "[]", done.stderr
