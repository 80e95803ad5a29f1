"""Checkpoints: folders of safetensors files, written whole or not at all, and checked when they are read.

A checkpoint is `step_00001000/` with one file per part (every network by its name, such as `generator`; `ema`: the
average of the generator under the generator's names; `training`: what else a resumed run needs) and `manifest.json`:
the step, the size and SHA-256 of every part, whatever describes the run, and a SHA-256 of all that. Reading executes
nothing.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from pyeqgan.errors import UserError
from pyeqgan.files import flush_folder, write_durably, writing
from pyeqgan.telling import Report

SUFFIX = ".safetensors"
MANIFEST = "manifest.json"
FORMAT = 1
KEEP = 2

Parts = Mapping[str, Mapping[str, Tensor]]


class DamagedCheckpointError(UserError):
    """A checkpoint that is incomplete, or whose bytes are not those that were written."""


@dataclass(frozen=True)
class Checkpoint:
    """What was read from a checkpoint.

    Attributes:
        path: its folder.
        step: number of training steps done.
        about: the description it was saved with: numbers, strings, lists and dictionaries.
        parts: the tensors by part and name, on the CPU; only the parts asked for.
    """

    path: Path
    step: int
    about: dict[str, Any]
    parts: dict[str, dict[str, Tensor]]


def save_checkpoint(folder: Path, step: int, parts: Parts, about: Mapping[str, Any]) -> Path:
    """Write a checkpoint to `folder`, then remove all but the last `KEEP`.

    It is written beside its place, flushed to the disk and then renamed: a checkpoint of that name is either whole
    or not there.

    Args:
        folder: where the run's checkpoints are; made if missing.
        step: number of training steps done.
        parts: tensors by part and name, on any device.
        about: what to keep beside them, JSON.

    Raises:
        UserError: it cannot be written, for example because the disk is full. Earlier checkpoints are untouched.
    """
    path = folder / f"step_{step:08d}"
    unfinished = folder / f".{path.name}"
    with writing(path):
        folder.mkdir(exist_ok=True)
        for leftover in folder.glob(".step_*"):
            shutil.rmtree(leftover)
        try:
            unfinished.mkdir()
            sums = {}
            for part, tensors in parts.items():
                on_host = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
                data = safetensors.torch.save(on_host)
                sums[part] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
                write_durably(unfinished / f"{part}{SUFFIX}", data)
            manifest = {"format": FORMAT, "step": step, "parts": sums, "about": about}
            text = json.dumps({**manifest, "sha256": _digest(manifest)}, indent=1, ensure_ascii=False)
            write_durably(unfinished / MANIFEST, text.encode())
            flush_folder(unfinished)
            unfinished.rename(path)
            flush_folder(folder)
        except OSError:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
        for old in checkpoints(folder)[:-KEEP]:
            remove_checkpoint(old)
    return path


def load_checkpoint(path: Path, parts: Sequence[str] | None = None) -> Checkpoint:
    """Read a checkpoint, or some of its parts, and check every byte of them.

    Raises:
        DamagedCheckpointError: a file is missing, truncated or altered.
        UserError: it is of another format.
    """
    manifest = _manifest(path)
    tensors = {}
    for part in manifest["parts"] if parts is None else parts:
        file = path / f"{part}{SUFFIX}"
        try:
            data = file.read_bytes()
        except OSError as error:
            raise DamagedCheckpointError(f"checkpoint {path} is damaged: {file.name}: {error.strerror}") from error
        known = manifest["parts"][part]
        if len(data) != known["bytes"]:
            size = f"expected {known['bytes']} bytes, got {len(data)}"
            raise DamagedCheckpointError(f"checkpoint {path} is damaged: {file.name}: {size}")
        if hashlib.sha256(data).hexdigest() != known["sha256"]:
            raise DamagedCheckpointError(f"checkpoint {path} is damaged: {file.name}: its checksum differs")
        try:
            tensors[part] = safetensors.torch.load(data)
        except SafetensorError as error:
            raise DamagedCheckpointError(f"checkpoint {path} is damaged: {file.name}: {error}") from error
    return Checkpoint(path, manifest["step"], manifest["about"], tensors)


def load_latest(path: Path, report: Report, parts: Sequence[str] | None = None) -> Checkpoint:
    """Read the last good checkpoint of a run.

    Args:
        path: folder of a run, or of its checkpoints, or of one checkpoint.
        report: called with a line for each damaged checkpoint that is passed over.
        parts: which parts to read; all if None.

    Raises:
        UserError: there is none, or all are damaged.
    """
    if (path / MANIFEST).exists():
        return load_checkpoint(path, parts)
    nested = checkpoints(path / "checkpoints")
    found = nested or checkpoints(path)
    if not found:
        raise UserError(f"no checkpoint in {path}: expected the folder of a run or of a checkpoint")
    for candidate in reversed(found):
        try:
            return load_checkpoint(candidate, parts)
        except DamagedCheckpointError as damage:
            report(f"{damage}; trying the one before")
    raise UserError(f"every checkpoint in {path} is damaged")


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, good or not, in the order of their steps."""
    found = [path for path in folder.glob("step_*") if path.is_dir() and re.fullmatch(r"step_\d{8,}", path.name)]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step_")))


def remove_checkpoint(path: Path) -> None:
    """Remove the files of a checkpoint, and its folder if nothing else is in it."""
    for file in (path / MANIFEST, *path.glob(f"*{SUFFIX}")):
        file.unlink(missing_ok=True)
    if not any(path.iterdir()):
        path.rmdir()


def _manifest(path: Path) -> dict[str, Any]:
    file = path / MANIFEST
    try:
        manifest = json.loads(file.read_bytes())
        digest = manifest.pop("sha256")
    except OSError as error:
        raise DamagedCheckpointError(f"checkpoint {path} is damaged: {file.name}: {error.strerror}") from error
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise DamagedCheckpointError(f"checkpoint {path} is damaged: {file.name} is no manifest") from error
    if digest != _digest(manifest):
        raise DamagedCheckpointError(f"checkpoint {path} is damaged: {file.name}: its checksum differs")
    if manifest["format"] != FORMAT:
        raise UserError(f"checkpoint {path} has format {manifest['format']}, expected {FORMAT}")
    return dict(manifest)


def _digest(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
