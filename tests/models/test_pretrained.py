import json
import re
import secrets
import shutil
import sys
from pathlib import Path

import pytest
import runs
import torch
import yaml

from pyeqgan.errors import UserError
from pyeqgan.models import EqGAN, EqGANConfig, EqGANGenerator, model_card

FILES = ["README.md", "config.json", "model.safetensors"]


@pytest.fixture
def model():
    model = EqGAN(EqGANConfig(3, image_size=32, width=0.125, detail="base"))
    for buffer in model.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5)
    return model


@pytest.fixture
def folder(model, tmp_path):
    model.generator.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The hub as a folder: what the client would send and fetch."""
    huggingface_hub = pytest.importorskip("huggingface_hub")
    root = tmp_path / "hub"

    class Hub:
        def __init__(self, **about):
            assert about == {"library_name": "pyeqgan"}

        def create_repo(self, name, *, private, token, exist_ok):
            (root / name).mkdir(parents=True, exist_ok=exist_ok)
            return f"https://hub/{name}"

        def upload_folder(self, *, repo_id, folder_path, token, commit_message):
            shutil.copytree(folder_path, root / repo_id, dirs_exist_ok=True)

        def snapshot_download(self, name, *, revision, token, allow_patterns):
            if not (root / name).is_dir():
                raise OSError(f"404 Client Error\n{name}")
            return str(root / name)

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    return root


def assert_same(one, other):
    assert type(one) is type(other) and one.config == other.config
    state = other.state_dict()
    assert one.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in one.state_dict().items())


@pytest.mark.parametrize("part", [lambda m: m, lambda m: m.generator], ids=["eqgan", "generator"])
def test_what_is_saved_is_loaded(model, part, tmp_path):
    saved = part(model)
    saved.save_pretrained(tmp_path / "new" / "model")
    assert sorted(path.name for path in (tmp_path / "new" / "model").iterdir()) == FILES
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["model"]
    loaded = type(saved).from_pretrained(str(tmp_path / "new" / "model"))
    assert_same(loaded, saved)
    assert not loaded.training


def test_a_channels_last_half_precision_model_keeps_its_numbers(model, tmp_path):
    generator = model.generator.to(memory_format=torch.channels_last).bfloat16()
    generator.save_pretrained(tmp_path / "model")
    loaded = EqGANGenerator.from_pretrained(tmp_path / "model")
    assert_same(loaded.bfloat16(), generator)


def test_folders_need_no_client_of_the_hub(model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    model.save_pretrained(tmp_path / "model")
    assert_same(EqGAN.from_pretrained(tmp_path / "model"), model)
    for call in (lambda: EqGAN.from_pretrained("owner/name"), lambda: model.push_to_hub("owner/name")):
        with pytest.raises(UserError, match=r"^the hub needs huggingface_hub: pip install 'pyeqgan\[hub\]'$"):
            call()


def test_the_mixin_of_the_hub_reads_it_too(model, folder):
    hub = pytest.importorskip("huggingface_hub")

    class Theirs(hub.PyTorchModelHubMixin, EqGANGenerator):
        def __init__(self, config: EqGANConfig) -> None:
            super().__init__(config)

    loaded = Theirs.from_pretrained(str(folder), strict=True)
    assert_same(EqGANGenerator.from_pretrained(folder), model.generator)
    assert all(torch.equal(t, model.generator.state_dict()[n]) for n, t in loaded.state_dict().items())


def test_published_and_fetched(model, hub):
    assert model.generator.push_to_hub("owner/name", card="mine") == "https://hub/owner/name"
    assert (hub / "owner/name/README.md").read_text() == "mine"
    assert_same(EqGANGenerator.from_pretrained("owner/name"), model.generator)
    with pytest.raises(UserError, match=r"^no folder owner/other, and not found on the hub: 404 Client Error$"):
        EqGANGenerator.from_pretrained("owner/other")


def test_a_path_is_never_looked_for_on_the_hub(hub, tmp_path):
    for source in (tmp_path / "none", Path("owner/name"), "runs/photos/model", "none"):
        with pytest.raises(UserError, match=re.escape(f"no model in {source}: expected a folder with config.json")):
            EqGANGenerator.from_pretrained(source)


def test_nothing_is_overwritten(model, folder):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(UserError, match=r"already holds README\.md: expected a new or empty folder"):
        model.save_pretrained(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_full_disk_leaves_nothing(model, tmp_path):
    with runs.full_disk(5000), pytest.raises(UserError, match=r"cannot write .*model"):
        model.save_pretrained(tmp_path / "model")
    assert not list(tmp_path.iterdir())


def spoil_config(**fields):
    def spoil(folder):
        config = json.loads((folder / "config.json").read_bytes())
        (folder / "config.json").write_text(json.dumps(config | fields))

    return spoil


def truncate(name):
    def spoil(folder):
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: len(data) // 2])

    return spoil


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda folder: (folder / "config.json").unlink(), "no model in .*: cannot read config.json: No such file"),
        (lambda folder: (folder / "model.safetensors").unlink(), r"cannot read .*model\.safetensors: No such file"),
        (truncate("config.json"), r"cannot read .*config\.json: "),
        (truncate("model.safetensors"), r"model\.safetensors does not hold the weights of this model: "),
        (lambda folder: (folder / "config.json").write_text("[]"), r"expected the fields of a configuration"),
        (spoil_config(width=-1), r"config\.json: EqGANConfig: width: expected a finite number > 0, got -1"),
        (spoil_config(width="1"), r"config\.json: EqGANConfig: width: expected a number, got '1'"),
        (spoil_config(other=1), r"config\.json: EqGANConfig: expected keys among .*, got other"),
        (spoil_config(width=0.5), r"model\.safetensors does not hold the weights of this model: "),
        (spoil_config(architecture="EqGAN"), r"holds an EqGAN, expected an EqGANGenerator"),
    ],
)
def test_what_is_damaged_is_said_on_one_line(folder, spoil, told):
    spoil(folder)
    with pytest.raises(UserError, match=told) as error:
        EqGANGenerator.from_pretrained(folder)
    assert "\n" not in str(error.value)


def front_matter(card):
    _, metadata, body = card.split("---\n", 2)
    return yaml.safe_load(metadata), body


def test_the_card_of_an_unknown_model_claims_nothing():
    metadata, body = front_matter(model_card("EqGANGenerator", EqGANConfig(3).to_dict()))
    assert metadata["library_name"] == "pyeqgan" and "license" not in metadata
    assert "## Training\n\nNot known." in body and "## Evaluation\n\nNone." in body and "Not stated" in body


def test_the_card_tells_the_run_but_not_where_its_data_was():
    secret = secrets.token_hex(8)
    run = {
        "step": 1234,
        "options": {"data": f"/home/{secret}/photos", "steps": 2000, "seen_classes": None},
        "classes": ["lily|tiger", "`rose`"],
    }
    estimates = {"accuracy": {"value": 0.5, "interval": [0.25, 0.75]}, "frechet": {"value": 1.5, "interval": None}}
    evaluation = {"note": "Not comparable.", "scores": {"generator": {"estimates": estimates | {"x": None}}}}
    card = model_card("EqGAN", EqGANConfig(2).to_dict(), run=run, evaluation=evaluation, license="apache-2.0")
    metadata, body = front_matter(card)
    assert metadata["license"] == "apache-2.0"
    assert secret not in card and "| data | `photos` |" in body
    assert "1234 steps on 2 classes: `lily\\|tiger`, `'rose'`" in body
    assert "Not comparable." in body and "| generator | 0.5 (0.25 to 0.75) | 1.5 |" in body
