"""An ECGAN on the engine that EqGAN trains on: the same folder, resume and faults."""

import dataclasses

import numpy as np
import pytest
import runs
import torch
from PIL import Image
from published_weights import accept, write_backbone

from pyeqgan import backends
from pyeqgan.errors import UserError
from pyeqgan.options import ECGANOptions
from pyeqgan.training.checkpoint import load_latest
from pyeqgan.training.ecgan.losses import LossWeights
from pyeqgan.training.ecgan.system import ECGANSystem, loss_weights
from pyeqgan.training.engine import Engine, launch
from pyeqgan.training.run_folder import read_config

pytestmark = pytest.mark.usefixtures("one_thread")
PARTS = ("discriminator", "ema", "generator", "projection", "segmenter", "training")


@pytest.fixture(scope="module")
def layouts(tmp_path_factory):
    return runs.write_layouts(tmp_path_factory.mktemp("layouts"))


@pytest.fixture(scope="module")
def straight(layouts, tmp_path_factory):
    path = tmp_path_factory.mktemp("straight") / "run"
    status, told = runs.trained(runs.ecgan_options(layouts, path))
    assert status == 0, told
    return path, told


def test_what_a_run_leaves(straight):
    path, told = straight
    files = sorted(str(file.relative_to(path)) for file in path.rglob("*") if file.is_file())
    kept = [f"checkpoints/step_0000000{s}/{f}.safetensors" for s in (2, 4) for f in PARTS]
    kept += [f"checkpoints/step_0000000{s}/manifest.json" for s in (2, 4)]
    assert files == sorted([*kept, "config.yaml", "losses.png", "metrics.jsonl", "samples/step_00000004.png"])
    names = {name for line in runs.losses(path) for name in line}
    assert names == {
        "step",
        "learning_rate",
        *(f"discriminator/{name}" for name in ("hinge_real", "hinge_fake", "segmentation")),
        *(f"generator/{name}" for name in ("adversarial", "feature_matching", "similarity", "contrastive")),
    }
    assert told.splitlines()[-1] == f"finished: 4 steps in {path}"


def test_a_picture_shows_layouts_edges_images_refined_and_real_ones(straight, layouts):
    grid = np.asarray(Image.open(straight[0] / "samples" / "step_00000004.png"))
    assert grid.shape == (5 * 18 + 2, 2 * 18 + 2, 3), "five rows of the two test pairs"
    real = ECGANSystem(runs.ecgan_options(layouts, straight[0]))._split.test.pair(1)[0]
    assert np.array_equal(grid[2 + 4 * 18 :][:16, 20:36], real)


def test_the_configuration_is_resolved_and_read_back(straight, layouts):
    config = read_config(straight[0])
    assert config == runs.ecgan_options(layouts.resolve(), straight[0])
    assert isinstance(config, ECGANOptions)
    about = load_latest(straight[0], pytest.fail).about
    assert about["classes"] == ["class 0", "class 1", "class 2"] and about["images"] == [3]
    assert about["coding"] == {"num_classes": 3, "ignored": 255, "first": 0}


def test_going_on_is_bitwise_the_same_as_never_having_stopped(straight, layouts, tmp_path):
    half = runs.ecgan_options(layouts, tmp_path / "run", steps=4, checkpoint_every=2)
    system = ECGANSystem(half)
    engine = Engine(system, launch("cpu", "32"))
    for batch in system.batches(0, 2, slice(0, 2)):
        engine.advance(batch)
    runs.trained(dataclasses.replace(half, steps=4))
    for later in (tmp_path / "run" / "checkpoints").glob("step_00000004/*"):
        later.unlink()
    (tmp_path / "run" / "checkpoints" / "step_00000004").rmdir()
    kept = load_latest(tmp_path / "run", pytest.fail)
    assert kept.step == 2
    for part, tensors in engine.parts().items():
        for name, tensor in tensors.items():
            assert torch.equal(tensor, kept.parts[part][name]), f"{part} {name}"
    torch.rand(5)  # the global generator has no say
    assert runs.trained(dataclasses.replace(half, resume=True))[0] == 0
    runs.assert_same_end(straight[0], tmp_path / "run", 4)


def test_fused_and_plain_kernels_give_the_same_curve(layouts, tmp_path):
    """In float64 nothing but rounding tells them apart: the losses of the steps after the first depend on gradients."""
    curves = []
    for implementation in (None, "reference"):
        torch.set_default_dtype(torch.float64)
        try:
            system = ECGANSystem(runs.ecgan_options(layouts, tmp_path / "run"))
            engine = Engine(system, launch("cpu", "32"))
            with backends.force(implementation) if implementation else backends.force("native"):
                steps = [
                    engine.advance(dataclasses.replace(batch, images=batch.images.double(), edges=batch.edges.double()))
                    for batch in system.batches(0, 4, slice(0, 2))
                ]
        finally:
            torch.set_default_dtype(torch.float32)
        curves.append([{name: float(value) for name, value in losses.items()} for losses in steps])
    for fused, plain in zip(*curves, strict=True):
        assert fused == pytest.approx(plain, rel=1e-9, abs=1e-11)


@pytest.mark.parametrize("changed", ["classes", "pairs"])
def test_other_layouts_do_not_continue_a_run(layouts, tmp_path, changed):
    output = tmp_path / "run"
    assert runs.trained(runs.ecgan_options(layouts, output, steps=2))[0] == 0
    other = runs.write_layouts(tmp_path / "other", classes=4 if changed == "classes" else 3, train=4)
    expected = "are not what they were"
    with pytest.raises(UserError, match=expected):
        runs.trained(runs.ecgan_options(other, output, resume=True))
    moved = layouts.rename(tmp_path / "moved")
    try:
        with pytest.raises(UserError, match="--data tells their new place"):
            runs.trained(runs.ecgan_options(layouts, output, resume=True))
        assert runs.trained(runs.ecgan_options(moved, output, resume=True))[0] == 0
    finally:
        moved.rename(layouts)


def test_instance_edges_need_instance_maps(layouts, tmp_path):
    with pytest.raises(UserError, match="no instance maps"):
        runs.trained(runs.ecgan_options(layouts, tmp_path / "run", instance_edges=True))
    assert not (tmp_path / "run").exists()
    options = runs.ecgan_options("embedded-layouts", tmp_path / "run", instance_edges=True, steps=1)
    assert runs.trained(options)[0] == 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"zoom": 0.5}, "--zoom 0.5, expected at least 1"),
        ({"similarity_weight": -1.0}, "--similarity-weight -1.0, expected a finite number of at least 0"),
        ({"generator_rate": 0.0}, "--generator-rate 0.0, expected a finite number above 0"),
        ({"ignore_index": -1}, "--ignore-index -1, expected at least 0"),
        ({"model": "eqgan"}, "--model eqgan"),
    ],
)
def test_an_option_out_of_range(tmp_path, fields, message):
    with pytest.raises(UserError) as error:
        runs.ecgan_options("embedded-layouts", tmp_path, **fields)
    assert message in str(error.value)


def test_sizes_and_weights_that_do_not_do_are_told_before_a_folder_is_made(layouts, tmp_path):
    for fields, message in (
        ({"image_height": 20}, "image_height"),
        ({"images_weight": 0, "refined_weight": 0}, "weight"),
    ):
        with pytest.raises(UserError, match=message):
            runs.trained(runs.ecgan_options(layouts, tmp_path / "run", **fields))
        assert not (tmp_path / "run").exists()


def test_the_defaults_are_those_of_the_losses(tmp_path):
    assert loss_weights(ECGANOptions(tmp_path)) == LossWeights()


def test_the_perceptual_loss_needs_weights_and_joins_the_others(layouts, tmp_path, monkeypatch):
    wanted = runs.ecgan_options(layouts, tmp_path / "run", perceptual_weight=10.0, weights=str(tmp_path), steps=1)
    with pytest.raises(UserError, match="no weights of LPIPS's VGG-16"):
        runs.trained(wanted)
    assert not (tmp_path / "run").exists()
    write_backbone(tmp_path, "vgg")
    accept(tmp_path, monkeypatch)
    assert runs.trained(wanted)[0] == 0
    assert runs.losses(tmp_path / "run")[0]["generator/perceptual"] > 0
