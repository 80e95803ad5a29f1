"""Networks on disk: trained once for the same data and configuration, checked when they are read."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from pyeqgan.data import ImageClasses
from pyeqgan.errors import UserError
from pyeqgan.evaluation.classify import FeatureConfig, train_feature_network
from pyeqgan.evaluation.features import CHANNELS, FeatureNetwork
from pyeqgan.files import write_whole
from pyeqgan.telling import Progress

FORMAT = 1
DIGEST = "__sha256__"


def feature_network(
    seen: ImageClasses, config: FeatureConfig, folder: Path, *, device: torch.device, progress: Progress | None = None
) -> tuple[FeatureNetwork, Path]:
    """The network of a configuration: read from `folder` if it is there, else trained and kept there.

    Its file, ``features_<key>.safetensors``, is named by a hash of the configuration, the classes' names and sizes
    and the first image of each; other images may change unnoticed. It ends with a checksum of all it holds.

    Returns:
        The network, in eval mode on `device`, and its file.

    Raises:
        UserError: the file is damaged, see `load`, or cannot be written; or see `train_feature_network`.
    """
    path = folder / f"features_{_key(seen, config)}.safetensors"
    if path.exists():
        network = FeatureNetwork(seen.image_size, len(seen))
        network.load_state_dict(load(path))
        return network.to(device).eval(), path
    network = train_feature_network(seen, config, device=device, progress=progress).eval()
    save(path, network.state_dict())
    return network, path


def save(path: Path, state: dict[str, Tensor]) -> None:
    """Write tensors with their checksum, whole or not at all; UserError if that fails."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    write_whole(path, safetensors.torch.save({**state, DIGEST: _digest(state)}))


def load(path: Path, network: str = "feature network") -> dict[str, Tensor]:
    """Read a network's tensors and check every byte of them.

    Args:
        path: the file.
        network: what it holds, for the message.

    Raises:
        UserError: the file is truncated, altered, or cannot be read. It is left as it is: whoever wants another one
            trained moves it away.
    """
    try:
        state = safetensors.torch.load(path.read_bytes())
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except SafetensorError as error:
        raise _damaged(path, network) from error
    digest = state.pop(DIGEST, None)
    if digest is None or not torch.equal(digest, _digest(state)):
        raise _damaged(path, network)
    return state


def _damaged(path: Path, network: str) -> UserError:
    return UserError(f"{network} {path} is damaged: move it away to have it trained again")


def _digest(state: dict[str, Tensor]) -> Tensor:
    """SHA-256 over names, types, shapes and values, as 32 bytes."""
    total = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name]
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return torch.frombuffer(bytearray(total.digest()), dtype=torch.uint8)


def _key(seen: ImageClasses, config: FeatureConfig) -> str:
    counts = [seen.count(c) for c in range(len(seen))]
    about = {
        "format": FORMAT,
        "channels": CHANNELS,
        "image_size": seen.image_size,
        **dataclasses.asdict(config),
        "classes": list(zip(seen.class_names, counts, strict=True)),
    }
    total = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for index in range(len(seen)):
        total.update(seen.image(index, 0).tobytes())
    return total.hexdigest()[:16]
