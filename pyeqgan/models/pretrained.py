"""Models as folders that anybody can load: weights as safetensors, the configuration as JSON, and a card.

The layout is that of the Hugging Face Hub, whose own mixins read it, too. Its client is needed for the hub alone:
folders of this machine are read and written without it. Reading executes nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import safetensors.torch
from safetensors import SafetensorError
from torch import nn

from pyeqgan.errors import UserError
from pyeqgan.files import new_folder
from pyeqgan.models.card import model_card

if TYPE_CHECKING:
    from huggingface_hub import HfApi

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
CARD = "README.md"
FILES = (CONFIG, WEIGHTS, CARD)

_Model = TypeVar("_Model", bound="Pretrained")


class Pretrained(nn.Module):
    """A module that is made from its ``config`` alone, and can be saved, loaded and published.

    Attributes:
        config: has ``to_dict()``, of which the card tells.
        config_type: has ``from_dict(fields)``; the type of ``config``.
    """

    config: Any
    config_type: ClassVar[Any]

    def save_pretrained(self, folder: str | Path, *, card: str | None = None) -> None:
        """Write ``config.json``, ``model.safetensors`` and ``README.md``, the model card.

        Args:
            folder: a new or empty one.
            card: Markdown; by default one that tells the architecture and how to load it.

        Raises:
            UserError: the folder holds something, or cannot be written. Nothing is left there then.
        """
        with new_folder(Path(folder)) as path:
            self.write_pretrained(path, card=card)

    def write_pretrained(self, folder: Path, *, card: str | None = None) -> None:
        """Write the files of :meth:`save_pretrained` into a folder that is there."""
        write_about(folder, type(self).__name__, self.config.to_dict(), card)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        (folder / WEIGHTS).write_bytes(safetensors.torch.save(tensors, metadata={"format": "pt"}))

    @classmethod
    def from_pretrained(
        cls: type[_Model], source: str | Path, *, revision: str | None = None, token: str | None = None
    ) -> _Model:
        """The model of a folder or of the hub, in eval mode on the CPU.

        Args:
            source: a folder; or, if there is none of that name, "owner/name", which is downloaded from the Hugging Face
                Hub and kept in its client's cache.
            revision: branch, tag or commit on the hub.
            token: for the hub, as its client takes it.

        Raises:
            UserError: it is neither, cannot be read, or is another model.
        """
        folder = Path(source)
        if not folder.is_dir():
            if not isinstance(source, str) or not re.fullmatch(r"[\w.-]+/[\w.-]+", source):
                raise UserError(f"no model in {source}: expected a folder with {CONFIG}, or owner/name on the hub")
            folder = _download(source, revision, token)
        fields = _read_config(folder)
        architecture = fields.pop("architecture", cls.__name__)
        if architecture != cls.__name__:
            raise UserError(f"{source} holds an {architecture}, expected an {cls.__name__}")
        try:
            model = cls(cls.config_type.from_dict(fields))
        except (ValueError, TypeError) as error:
            raise UserError(f"{folder / CONFIG}: {error}") from error
        _load_weights(model, folder / WEIGHTS)
        return model.eval()

    def push_to_hub(
        self, name: str, *, card: str | None = None, private: bool | None = None, token: str | None = None
    ) -> str:
        """Publish what :meth:`save_pretrained` writes; returns the address.

        Args:
            name: "owner/name" on the Hugging Face Hub; made if it is not there.
            card: as for :meth:`save_pretrained`.
            private: whether a new repository is; None: as the owner has chosen.
            token: as the hub's client takes it.

        Raises:
            UserError: huggingface_hub is missing, or the hub refuses.
        """
        api = _hub()
        with TemporaryDirectory() as folder:
            self.write_pretrained(Path(folder), card=card)
            try:
                url = api.create_repo(name, private=private, token=token, exist_ok=True)
                api.upload_folder(repo_id=name, folder_path=folder, token=token, commit_message="Upload by pyeqgan")
            except Exception as error:  # whatever the client's HTTP library raises
                raise UserError(f"cannot publish {name}: {_first_line(error)}") from error
        return str(url)


def write_about(folder: Path, architecture: str, config: Mapping[str, Any], card: str | None) -> None:
    """Write ``config.json`` and the card of a model."""
    fields = {"architecture": architecture, **config}
    (folder / CONFIG).write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")
    (folder / CARD).write_text(card or model_card(architecture, config), encoding="utf-8")


def _read_config(folder: Path) -> dict[str, Any]:
    file = folder / CONFIG
    try:
        fields = json.loads(file.read_bytes())
    except OSError as error:
        raise UserError(f"no model in {folder}: cannot read {file.name}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"cannot read {file}: {error}") from error
    if not isinstance(fields, dict):
        raise UserError(f"{file}: expected the fields of a configuration")
    return fields


def _load_weights(model: nn.Module, file: Path) -> None:
    try:
        tensors = safetensors.torch.load_file(file)
        model.load_state_dict(tensors)
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror or error}") from error
    except (SafetensorError, RuntimeError) as error:
        raise UserError(f"{file} does not hold the weights of this model: {_first_line(error)}") from error


def _download(name: str, revision: str | None, token: str | None) -> Path:
    api = _hub()
    try:
        return Path(api.snapshot_download(name, revision=revision, token=token, allow_patterns=[CONFIG, WEIGHTS]))
    except Exception as error:  # whatever the client's HTTP library raises
        raise UserError(f"no folder {name}, and not found on the hub: {_first_line(error)}") from error


def _hub() -> HfApi:
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise UserError("the hub needs huggingface_hub: pip install 'pyeqgan[hub]'") from error
    return HfApi(library_name="pyeqgan")


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0].rstrip(":")
