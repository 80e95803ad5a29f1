"""Where weights are looked for, and what is said when they are not there or not the right ones."""

from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path

import pytest
import torch

from pyeqgan.errors import UserError
from pyeqgan.evaluation.libraries import library, library_folder
from pyeqgan.evaluation.weights import BACKBONES, INCEPTION, VARIABLE, Weights, find_weights

CONTENT = b"weights"
OURS = Weights(
    "a network", ("net-1.pth", "net-2.pth"), hashlib.sha256(CONTENT).hexdigest()[:8], "https://example.org/net.pth"
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of torch.hub, and nothing in the environment."""
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    path = tmp_path / "hub" / "checkpoints"
    path.mkdir(parents=True)
    return path


def test_a_named_folder_comes_before_the_environment_and_the_cache(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cache / "net-1.pth").write_bytes(CONTENT)
    assert find_weights(OURS, None) == cache / "net-1.pth"
    for name in ("named", "environment"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv(VARIABLE, str(tmp_path / "environment"))
    assert find_weights(OURS, None) == cache / "net-1.pth"  # the folder does not hold it
    (tmp_path / "environment" / "net-2.pth").write_bytes(CONTENT)  # by its other name
    assert find_weights(OURS, None) == tmp_path / "environment" / "net-2.pth"
    assert find_weights(OURS, tmp_path / "named") == cache / "net-1.pth"
    (tmp_path / "named" / "net-1.pth").write_bytes(CONTENT)
    assert find_weights(OURS, tmp_path / "named") == tmp_path / "named" / "net-1.pth"


@pytest.mark.parametrize("weights", [INCEPTION, *BACKBONES.values()], ids=lambda w: w.names[0])
def test_the_message_says_where_what_and_from_where(weights: Weights, tmp_path: Path, cache: Path) -> None:
    with pytest.raises(UserError) as told:
        find_weights(weights, tmp_path)
    message = str(told.value)
    for part in (*weights.names, str(tmp_path), str(cache), weights.url, "nothing is downloaded", VARIABLE):
        assert part in message
    assert "\n" not in message
    assert all(weights.sha256[:8] in name for name in weights.names)  # the file's name tells its checksum


def test_another_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "net-1.pth"
    path.write_bytes(CONTENT + b"!")
    found = hashlib.sha256(CONTENT + b"!").hexdigest()[:8]
    expected = re.escape(f"{path} is not the published file: expected a SHA-256 of {OURS.sha256}…, got {found}…")
    with pytest.raises(UserError, match=expected):
        find_weights(OURS, tmp_path)


def test_a_folder_that_does_not_exist_is_no_silent_detour(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cache / "net-1.pth").write_bytes(CONTENT)
    with pytest.raises(UserError, match=r"no folder .*nowhere, expected one that holds weights"):
        find_weights(OURS, tmp_path / "nowhere")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"no folder .*nowhere"):
        find_weights(OURS, None)


def test_a_library_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    message = r"--lpips: nothing_like_it is not installed: pip install 'pyeqgan\[metrics\]'"
    with pytest.raises(UserError, match=message):
        library("nothing_like_it", option="--lpips")
    with pytest.raises(UserError, match=message):
        library_folder("nothing_like_it", option="--lpips")


def test_a_library_that_cannot_be_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_library.py").write_text("raise RuntimeError('no such driver\\nand more')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"--lpips: cannot import broken_library: no such driver$"):
        library("broken_library", option="--lpips")


def test_a_library_that_lacks_torchvisions_operators(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "first").write_text("")
    (tmp_path / "unfit_library.py").write_text(
        "from pathlib import Path\n"
        f"first = Path({str(tmp_path / 'first')!r})\n"
        "if first.exists():\n"
        "    first.unlink()\n"
        "    raise RuntimeError('operator torchvision::nms does not exist')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert library("unfit_library", option="--lpips").__name__ == "unfit_library"
    assert hasattr(torch.ops.torchvision, "nms")
    assert sys.modules.pop("unfit_library")
