"""Two processes train as one: losses, gradients, weights, statistics; and what they agree on."""

import contextlib
import copy
import dataclasses

import numpy as np
import pytest
import ranks
import runs
import torch
from lightning_fabric import Fabric
from PIL import Image
from sampling import seed_everything
from torch.distributed.tensor import DTensor

from pyeqgan.errors import UserError
from pyeqgan.training.checkpoint import load_checkpoint, save_checkpoint
from pyeqgan.training.engine import Engine
from pyeqgan.training.processes import Processes, _buckets
from pyeqgan.training.sharding import whole
from pyeqgan.training.systems import open_system

STEPS = 2  # EqGAN's lazy penalty is due, then it is not
EQGAN = {"mode_seeking_weight": 1.0, "penalty_every": 2, "learning_rate": 1e-3}
ECGAN = {"contrast_pixels": 5, "similarity_stride": 2, "generator_rate": 1e-3, "contrastive_weight": 3.0}
RUNS = {
    "eqgan ddp": {"strategy": "ddp", "penalty": "adversarial", **EQGAN},
    "eqgan fsdp": {"strategy": "fsdp", "penalty": "class", **EQGAN},
    "ecgan ddp": {"strategy": "ddp", "modules": "edge", "contrast": "single", **ECGAN},
    "ecgan fsdp": {"strategy": "fsdp", **ECGAN},
}
OPTIONS = {"eqgan": runs.run_options, "ecgan": runs.ecgan_options}
RESUMED = ("eqgan fsdp", "ecgan fsdp")


class Trained:
    """An engine in float64, so that nothing but rounding of 1e-16 tells two processes from one."""

    def __init__(self, data, folder, name, seed):
        model = name.split()[0]
        with double():
            self.processes = Processes(Fabric(accelerator="cpu", devices=1))
            options = OPTIONS[model](data[model], folder, batch_size=4, steps=100, seed=seed, **RUNS[name])
            self.system = open_system(options)
            self.engine = Engine(self.system, self.processes)

    def take_steps(self):
        """The losses of the batch at each step, the last step's gradients, and the state after it."""
        losses, start = [], self.engine.step
        batches = self.system.batches(start, start + STEPS, self.processes.rows(4))
        with double(), contextlib.closing(batches):
            for batch in batches:
                found = self.engine.advance(in_double(batch))
                losses.append({name: self.processes.mean(value) for name, value in found.items()})
        networks = self.engine.networks.values()
        gradients = [{name: whole(p.grad) for name, p in n.named_parameters() if p.grad is not None} for n in networks]
        return {"losses": losses, "gradients": gradients, "parts": self.engine.parts()}


@contextlib.contextmanager
def double():
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def in_double(batch):
    tensors = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    kept = {name: t for name, t in tensors.items() if t is not None and t.is_floating_point()}
    return dataclasses.replace(batch, **{name: tensor.double() for name, tensor in kept.items()})


def work(rank, data, folder, seed, checkpoints):
    found = {}
    for name, settings in RUNS.items():
        trained = Trained(data, folder / name, name, seed)
        for network in trained.system.sharded:
            sharded = [isinstance(p, DTensor) for p in trained.engine.networks[network].parameters()]
            assert all(sharded) if settings["strategy"] == "fsdp" else not any(sharded)
        found[name] = trained.take_steps()
    for name in RESUMED:
        resumed = Trained(data, folder / f"resumed {name}", name, seed)
        resumed.engine.load(load_checkpoint(checkpoints[name]))
        found[f"resumed {name}"] = resumed.take_steps()
    found["agreed"] = agreements(rank, resumed.processes)
    return found


def agreements(rank, processes):
    def refuse():
        raise UserError("no")

    with pytest.raises(UserError if rank == 0 else SystemExit):
        processes.first(refuse)
    with pytest.raises(UserError, match="--batch-size 3, expected a multiple of the 2 processes"):
        processes.rows(3)
    return {
        "agree": processes.agree(15 * rank),
        "first": processes.first(lambda: f"of {rank}"),
        "gather": processes.gather([f"of {rank}", "of both"]),
    }


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("data")
    layouts = runs.write_layouts(folder / "layouts")
    # What is a mean over more than images: one image has no class anywhere, one has half of its pixels.
    for name, rows in (("train_0", 24), ("train_1", 12)):
        path = layouts / "train" / "labels" / f"{name}.png"
        labels = np.array(Image.open(path))
        labels[:rows] = 255
        Image.fromarray(labels).save(path)
    return {"eqgan": runs.write_photos(folder / "photos"), "ecgan": layouts}


@pytest.fixture(scope="module")
def run_seed():
    return seed_everything()


@pytest.fixture(scope="module")
def one(data, run_seed, tmp_path_factory):
    """What one process finds; "resumed": as many steps later."""
    folder = tmp_path_factory.mktemp("one")
    found = {"checkpoints": {}}
    for name in RUNS:
        trained = Trained(data, folder / name, name, run_seed)
        found[name] = trained.take_steps()
        found[name]["parts"] = copy.deepcopy(found[name]["parts"])
        if name in RESUMED:
            found["checkpoints"][name] = save_checkpoint(folder / name, STEPS, found[name]["parts"], {})
            found[f"resumed {name}"] = trained.take_steps()
    return found


@pytest.fixture(scope="module")
def two(one, data, run_seed, tmp_path_factory):
    """What each of two processes finds."""
    folder = tmp_path_factory.mktemp("two")
    return ranks.run(work, 2, folder, data, folder, run_seed, one["checkpoints"])


def assert_same(found, expected, where=""):
    """To rounding, which Adam magnifies where a gradient is nothing but rounding: hence the floor of weights.

    That is at most by its rate over its eps, 1e5: here a rounding of 1e-13, as of a sum of many larger numbers.
    The average is kept in float32, where what differs in the last bit of float64 may be rounded to neighbours.
    """
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert_same(found[key], value, f"{where} {key}")
    elif isinstance(expected, list):
        for index, (mine, theirs) in enumerate(zip(found, expected, strict=True)):
            assert_same(mine, theirs, f"{where} {index}")
    else:
        weight = " parts " in where and " training " not in where
        tolerance = {"rtol": 1e-7, "atol": 1e-8 if weight else 1e-10}
        if expected.dtype == torch.float32:
            tolerance = {"rtol": 1e-6, "atol": 1e-7}
        torch.testing.assert_close(found, expected, **tolerance, msg=lambda m: f"{where}: {m}")


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_find_what_one_finds(one, two, name):
    assert_same(two[0][name], one[name])


def test_both_hold_the_same_bits(two):
    for name in RUNS:
        for part, tensors in two[0][name]["parts"].items():
            for key, tensor in tensors.items():
                assert torch.equal(tensor, two[1][name]["parts"][part][key]), f"{name} {part} {key}"


@pytest.mark.parametrize("name", RESUMED)
def test_two_go_on_from_a_checkpoint_of_one(one, two, name):
    assert_same(two[0][f"resumed {name}"], one[f"resumed {name}"])


@pytest.mark.parametrize("name", RESUMED)
def test_one_goes_on_from_a_checkpoint_of_shards(one, two, data, run_seed, tmp_path, name):
    path = save_checkpoint(tmp_path, STEPS, two[0][name]["parts"], {})
    resumed = Trained(data, tmp_path / "run", name, run_seed)
    resumed.engine.load(load_checkpoint(path))
    assert_same(resumed.take_steps(), one[f"resumed {name}"])


def test_what_processes_agree_on(two):
    assert [rank["agreed"] for rank in two] == [
        {"agree": 15, "first": "of 0", "gather": ["of 0", "of both", "of 1"]}
    ] * 2


def test_gradients_travel_in_buckets():
    gradients = [torch.empty(n) for n in (1, 2, 7 << 20, 3, 7 << 20)]
    assert [[g.numel() for g in bucket] for bucket in _buckets(gradients)] == [[1, 2, 7 << 20], [3, 7 << 20]]
