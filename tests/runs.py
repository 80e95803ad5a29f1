"""Small training runs: the photographs, the options and how two runs are compared."""

from __future__ import annotations

import contextlib
import io
import resource
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console

from pyeqgan.options import ECGANOptions, EqGANOptions, TrainOptions
from pyeqgan.training.checkpoint import load_checkpoint
from pyeqgan.training.run import train

FLAGS = ["--image-size", "32", "--width", "0.125", "--batch-size", "2", "--shots", "2"]


def write_photos(root: Path, classes: int = 4, images: int = 3) -> Path:
    """A folder of class folders of random pictures, none square, the last quarter of the classes unseen by default."""
    seed = secrets.randbits(31)
    print(f"photos of seed {seed}")
    rng = np.random.default_rng(seed)
    for name in "abcdefgh"[:classes]:
        (root / name).mkdir(parents=True)
        for index in range(images):
            pixels = rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((48, 40)).save(root / name / f"{index}.png")
    return root


def picture() -> Image.Image:
    """One of random pixels."""
    return Image.fromarray(np.random.default_rng().integers(0, 256, (64, 64, 3), dtype=np.uint8))


def run_options(data: Path, output: Path, **changed: Any) -> EqGANOptions:
    """Options of a run that takes about a tenth of a second a step, and draws no picture before its end."""
    fields = {
        "data": str(data),
        "image_size": 32,
        "width": 0.125,
        "batch_size": 2,
        "shots": 2,
        "steps": 4,
        "checkpoint_every": 2,
        "log_every": 1,
        "device": "cpu",
    }
    return EqGANOptions(output=output, **(fields | changed))


def run(data: Path, output: Path, **changed: Any) -> tuple[int, str]:
    """Train; returns the status and what was told."""
    return trained(run_options(data, output, **changed))


def trained(options: TrainOptions) -> tuple[int, str]:
    """Train as options say; returns the status and what was told."""
    console = Console(file=io.StringIO(), width=200)
    status = train(options, console)
    return status, console.file.getvalue()


def write_layouts(root: Path, train: int = 3, test: int = 2, classes: int = 3) -> Path:
    """A folder of pairs of random pictures and label maps of stripes, in two halves; 255 is no class."""
    seed = secrets.randbits(31)
    print(f"layouts of seed {seed}")
    rng = np.random.default_rng(seed)
    for half, count in (("train", train), ("test", test)):
        for folder in ("images", "labels"):
            (root / half / folder).mkdir(parents=True)
        for index in range(count):
            labels = np.repeat(rng.integers(0, classes, (3, 1)), 24, 1).repeat(8, 0).astype(np.uint8)
            labels[:2, :2] = 255
            pixels = (80 * labels[..., None] + rng.integers(0, 60, (24, 24, 3))).astype(np.uint8)
            Image.fromarray(pixels).save(root / half / "images" / f"{half}_{index}.png")
            Image.fromarray(labels).save(root / half / "labels" / f"{half}_{index}.png")
    (root / "classes.txt").write_text("".join(f"class {index}\n" for index in range(classes)))
    return root


ECGAN_FLAGS = ["--model", "ecgan", "--image-height", "16", "--image-width", "16", "--width", "0.125"]
ECGAN_FLAGS += ["--upsamplings", "3", "--batch-size", "2"]


def ecgan_options(data: Path | str, output: Path, **changed: Any) -> ECGANOptions:
    """Options of a run that takes about a tenth of a second a step, and draws no picture before its end."""
    fields = {
        "data": str(data),
        "image_height": 16,
        "image_width": 16,
        "width": 0.125,
        "upsamplings": 3,
        "batch_size": 2,
        "steps": 4,
        "checkpoint_every": 2,
        "log_every": 1,
        "device": "cpu",
    }
    return ECGANOptions(output=output, **(fields | changed))


# By model: how its data are written, the flags of a small run and the same as options.
MODELS = {"eqgan": (write_photos, FLAGS, run_options), "ecgan": (write_layouts, ECGAN_FLAGS, ecgan_options)}


def assert_same_end(one: Path, other: Path, step: int) -> None:
    """Both runs ended at `step` with the same bits: weights, moments, average, last samples, losses of that step."""
    first, second = (load_checkpoint(path / "checkpoints" / f"step_{step:08d}") for path in (one, other))
    for part, tensors in first.parts.items():
        assert tensors.keys() == second.parts[part].keys()
        for name, tensor in tensors.items():
            assert torch.equal(tensor, second.parts[part][name]), f"{part} {name}"
    sample = f"samples/step_{step:08d}.png"
    assert (one / sample).read_bytes() == (other / sample).read_bytes()
    assert losses(one) == losses(other)


def losses(path: Path) -> list[dict[str, float]]:
    """The metrics of a run without its timing."""
    from pyeqgan.training.run_folder import RunFolder

    timing = ("steps_per_second", "data_wait")
    return [{k: v for k, v in line.items() if k not in timing} for line in RunFolder(path).metrics()]


@contextlib.contextmanager
def full_disk(largest: int) -> Iterator[None]:
    """Within: a write that takes a file beyond `largest` bytes fails, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
