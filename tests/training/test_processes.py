"""Two processes train as one: losses, gradients, weights, statistics; and what they agree on."""

import contextlib
import copy
import dataclasses

import pytest
import ranks
import runs
import torch
from lightning_fabric import Fabric
from sampling import seed_everything
from torch.distributed.tensor import DTensor

from pyeqgan.data import EpisodeSampler, open_data
from pyeqgan.errors import UserError
from pyeqgan.training.checkpoint import load_checkpoint, save_checkpoint
from pyeqgan.training.engine import Engine
from pyeqgan.training.eqgan.system import EqGANSystem
from pyeqgan.training.processes import Processes, _buckets
from pyeqgan.training.sharding import whole

STEPS = 2  # the lazy penalty is due, then it is not
SETTINGS = {"batch_size": 4, "mode_seeking_weight": 1.0, "penalty_every": 2, "learning_rate": 1e-3, "steps": 100}
RUNS = {
    "ddp": {"strategy": "ddp", "penalty": "adversarial"},
    "fsdp": {"strategy": "fsdp", "penalty": "class"},
}


class Trained:
    """An engine in float64, so that nothing but rounding of 1e-16 tells two processes from one."""

    def __init__(self, data, folder, **changed):
        with double():
            self.processes = Processes(Fabric(accelerator="cpu", devices=1))
            options = runs.run_options(data, folder, **SETTINGS, **changed)
            classes = open_data(options.data, image_size=32).seen
            drawing = {"batch_size": options.batch_size, "shots": options.shots, "seed": options.seed}
            self.sampler = EpisodeSampler(classes, **drawing, rows=self.processes.rows(options.batch_size))
            self.engine = Engine(EqGANSystem(options), self.processes)

    def take_steps(self):
        """The losses of the batch at each step, the last step's gradients, and the state after it."""
        losses = []
        with double():
            for _ in range(STEPS):
                episode = self.sampler.episode(self.engine.step)
                found = self.engine.advance(dataclasses.replace(episode, images=episode.images.double()))
                losses.append({name: self.processes.mean(value) for name, value in found.items()})
        networks = self.engine.networks.values()
        gradients = [{name: whole(p.grad) for name, p in n.named_parameters()} for n in networks]
        return {"losses": losses, "gradients": gradients, "parts": self.engine.parts()}


@contextlib.contextmanager
def double():
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def work(rank, data, folder, seed, checkpoint):
    found = {}
    for name, settings in RUNS.items():
        trained = Trained(data, folder / name, seed=seed, **settings)
        sharded = [isinstance(p, DTensor) for p in trained.engine.networks["discriminator"].parameters()]
        assert all(sharded) if settings["strategy"] == "fsdp" else not any(sharded)
        found[name] = trained.take_steps()
    resumed = Trained(data, folder / "resumed", seed=seed, **RUNS["fsdp"])
    resumed.engine.load(load_checkpoint(checkpoint))
    found["resumed"] = resumed.take_steps()
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
def photos(tmp_path_factory):
    torch.set_num_threads(1)
    return runs.write_photos(tmp_path_factory.mktemp("data") / "photos")


@pytest.fixture(scope="module")
def run_seed():
    return seed_everything()


@pytest.fixture(scope="module")
def one(photos, run_seed, tmp_path_factory):
    """What one process finds, by its penalty; "resumed": as many steps later."""
    folder = tmp_path_factory.mktemp("one")
    found = {}
    for penalty in ("adversarial", "class"):
        trained = Trained(photos, folder / penalty, seed=run_seed, penalty=penalty)
        found[penalty] = trained.take_steps()
        found[penalty]["parts"] = copy.deepcopy(found[penalty]["parts"])
    found["checkpoint"] = save_checkpoint(folder, STEPS, found["class"]["parts"], {})
    found["resumed"] = trained.take_steps()
    return found


@pytest.fixture(scope="module")
def two(one, photos, run_seed, tmp_path_factory):
    """What each of two processes finds."""
    folder = tmp_path_factory.mktemp("two")
    return ranks.run(work, 2, folder, photos, folder, run_seed, one["checkpoint"])


def assert_same(found, expected, where=""):
    """To rounding, which Adam magnifies where a gradient is nothing but rounding: hence the floor."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert_same(found[key], value, f"{where} {key}")
    elif isinstance(expected, list):
        for index, (mine, theirs) in enumerate(zip(found, expected, strict=True)):
            assert_same(mine, theirs, f"{where} {index}")
    else:
        torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-10, msg=lambda m: f"{where}: {m}")


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_find_what_one_finds(one, two, name):
    assert_same(two[0][name], one[RUNS[name]["penalty"]])


def test_both_hold_the_same_bits(two):
    for name in RUNS:
        for part, tensors in two[0][name]["parts"].items():
            for key, tensor in tensors.items():
                assert torch.equal(tensor, two[1][name]["parts"][part][key]), f"{name} {part} {key}"


def test_two_go_on_from_a_checkpoint_of_one(one, two):
    assert_same(two[0]["resumed"], one["resumed"])


def test_one_goes_on_from_a_checkpoint_of_shards(one, two, photos, run_seed, tmp_path):
    path = save_checkpoint(tmp_path, STEPS, two[0]["fsdp"]["parts"], {})
    resumed = Trained(photos, tmp_path / "run", seed=run_seed, penalty="class")
    resumed.engine.load(load_checkpoint(path))
    assert_same(resumed.take_steps(), one["resumed"])


def test_what_processes_agree_on(two):
    assert [rank["agreed"] for rank in two] == [
        {"agree": 15, "first": "of 0", "gather": ["of 0", "of both", "of 1"]}
    ] * 2


def test_gradients_travel_in_buckets():
    gradients = [torch.empty(n) for n in (1, 2, 7 << 20, 3, 7 << 20)]
    assert [[g.numel() for g in bucket] for bucket in _buckets(gradients)] == [[1, 2, 7 << 20], [3, 7 << 20]]
