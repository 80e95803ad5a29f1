"""The folder of a run: who may write in it, what is kept where, and how a run is found again."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from pyeqgan import __version__
from pyeqgan.errors import UserError
from pyeqgan.files import locked, write_whole, writing
from pyeqgan.options import TRAINABLE, TrainOptions
from pyeqgan.telling import Report
from pyeqgan.training import tensorboard
from pyeqgan.training.checkpoint import Checkpoint, Parts, checkpoints, load_latest, remove_checkpoint, save_checkpoint
from pyeqgan.training.pictures import png

CONFIG = "config.yaml"
METRICS = "metrics.jsonl"
CURVES = "losses.png"
UNREADABLE = "unreadable.txt"
PROFILE = "profile"


class RunFolder:
    """A folder with `config.yaml`, `metrics.jsonl`, `losses.png`, `samples/`, `checkpoints/`, `profile/`,
    `tensorboard/` and, if there are any, the images that could not be read in `unreadable.txt`.

    Use `open_run`, which makes sure that nobody else writes in it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def write_config(self, options: TrainOptions) -> None:
        """Keep the configuration as YAML, beside the version that ran it."""
        text = yaml.safe_dump({"pyeqgan": __version__, **options.to_dict()}, sort_keys=False)
        write_whole(self.path / CONFIG, text.encode())

    def save(self, step: int, parts: Parts, about: Mapping[str, Any]) -> Path:
        """Write a checkpoint; see `save_checkpoint`."""
        return save_checkpoint(self.path / "checkpoints", step, parts, about)

    def resume(self, report: Report) -> Checkpoint | None:
        """The last good checkpoint, or None before the first one.

        Damaged ones after it are set aside, renamed to `damaged_…`: what is written next takes their place.

        Raises:
            UserError: there are checkpoints, and all are damaged.
        """
        folder = self.path / "checkpoints"
        if not checkpoints(folder):
            return None
        good = load_latest(folder, report)
        for path in checkpoints(folder):
            if int(path.name.removeprefix("step_")) > good.step:
                with writing(path):
                    path.rename(_unused(path.with_name(f"damaged_{path.name}")))
        return good

    def log(self, metrics: Mapping[str, Any]) -> None:
        """Append one line to the metrics."""
        with writing(self.path / METRICS), open(self.path / METRICS, "a") as file:
            file.write(json.dumps(metrics) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """Every line of the metrics that is whole: a killed run may leave half of its last one."""
        try:
            lines = (self.path / METRICS).read_text().splitlines()
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]

    def forget_after(self, step: int) -> None:
        """Drop the metrics of the steps after `step`, which a resumed run takes again."""
        kept = [json.dumps(line) + "\n" for line in self.metrics() if line["step"] <= step]
        write_whole(self.path / METRICS, "".join(kept).encode())

    def unreadable(self) -> list[str]:
        """What was said of each image that could not be read."""
        try:
            return (self.path / UNREADABLE).read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []

    def save_unreadable(self, lines: Sequence[str]) -> None:
        """Keep what was said of the images that could not be read, a line each."""
        write_whole(self.path / UNREADABLE, "".join(f"{line}\n" for line in lines).encode())

    def save_sample(self, step: int, picture: Image.Image) -> Path:
        """Keep a grid of samples as `samples/step_….png`."""
        path = self.path / "samples" / f"step_{step:08d}.png"
        with writing(path):
            path.parent.mkdir(exist_ok=True)
        write_whole(path, png(picture))
        return path

    def save_curves(self, png: bytes) -> None:
        """Keep the picture of the losses as `losses.png`."""
        write_whole(self.path / CURVES, png)

    def clear(self) -> None:
        """Remove what runs made here, and no other file."""
        with writing(self.path):
            for pattern in (
                CONFIG,
                METRICS,
                CURVES,
                UNREADABLE,
                "samples/step_*.png",
                f"{PROFILE}/table.txt",
                f"{PROFILE}/trace.json.gz",
                f"{tensorboard.FOLDER}/{tensorboard.EVENTS}",
            ):
                for file in self.path.glob(pattern):
                    file.unlink()
            folder = self.path / "checkpoints"
            for checkpoint in (*checkpoints(folder), *folder.glob("damaged_step_*"), *folder.glob(".step_*")):
                remove_checkpoint(checkpoint)
            for emptied in (self.path / "samples", self.path / PROFILE, self.path / tensorboard.FOLDER, folder):
                if emptied.is_dir() and not any(emptied.iterdir()):
                    emptied.rmdir()


@contextmanager
def open_run(options: TrainOptions) -> Iterator[RunFolder]:
    """The run's folder, for one process at a time; closed at the end.

    A new run makes it, or clears it of an earlier run with `options.force`. A resumed one must have the same
    configuration, see `TrainOptions.changes`; two configurations compare once they are resolved.

    Raises:
        UserError: the folder cannot be made, holds a run, or something else, or none to resume, or is in use.
    """
    path = options.output
    run = RunFolder(path)
    if options.resume:
        saved = read_config(path)
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
    with locked(path, "train"):
        if options.resume:
            changes = options.changes(saved)
            if changes:
                raise UserError(f"cannot resume {path} with other options: {'; '.join(changes)}")
        else:
            _make_room(run, options.force)
        yield run


def read_config(path: Path) -> TrainOptions:
    """The options of the run in a folder; UserError if there is none, or they cannot be read."""
    values = _read_yaml(path / CONFIG)
    del values["pyeqgan"]
    try:
        kind = TRAINABLE.get(values.get("model", "eqgan"))
        if kind is None:
            raise UserError(f"model: expected {' or '.join(TRAINABLE)}, got {values['model']!r}")
        return kind.from_dict(values, path)
    except UserError as error:
        raise UserError(f"{path / CONFIG}: {error}") from error


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(file.read_text())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"no run in {file.parent}: expected a folder with {file.name}") from error
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from error
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(f"cannot read {file}: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict) or "pyeqgan" not in values:
        raise UserError(f"{file} is not the configuration of a run of pyeqgan")
    return values


def _make_room(run: RunFolder, force: bool) -> None:
    # A profile is no run, nor is what a run leaves that is killed while it writes its configuration.
    if all(path.name in (PROFILE, f".{CONFIG}") for path in run.path.iterdir()):
        return
    if not (run.path / CONFIG).exists():
        raise UserError(f"{run.path} is not empty and holds no run: expected a new or empty folder")
    if not force:
        raise UserError(f"{run.path} already holds a run: --resume continues it, --force replaces it")
    _read_yaml(run.path / CONFIG)  # refuses a folder whose config.yaml is not ours
    run.clear()


def _unused(path: Path) -> Path:
    """`path`, or the first of `path`.2, `path`.3, … that does not exist."""
    names = [path, *(path.with_name(f"{path.name}.{i}") for i in range(2, 1000))]
    return next(name for name in names if not name.exists())
