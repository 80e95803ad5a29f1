"""Steps that are recorded and replayed: what a GPU records, on the CPU (see recording.py)."""

from __future__ import annotations

import contextlib
import dataclasses

import pytest
import runs
import torch
from lightning_fabric import Fabric
from recording import HostRecorder, NoCrossing, NoData, NoReading

from pyeqgan.errors import UserError
from pyeqgan.models.eqgan import FusionPlan
from pyeqgan.training import engine as engines
from pyeqgan.training import graphs
from pyeqgan.training.checkpoint import load_checkpoint, save_checkpoint
from pyeqgan.training.engine import Engine, launch
from pyeqgan.training.graphs import StepGraphs, check_recordable
from pyeqgan.training.inputs import mapped, on_device, tensors
from pyeqgan.training.processes import Processes
from pyeqgan.training.systems import open_system

STEPS = 6
ROWS = slice(0, 2)
EQGAN = [
    {"penalty_every": 2, "mode_seeking_weight": 1.0},
    {"penalty": "adversarial", "precision": "bf16-mixed", "equalization": "shared", "detail": "base"},
    {"penalty": "none", "memory_format": "channels_last", "fusion": "mean", "detail": "none"},
]
ECGAN = [
    {"model": "ecgan", "contrast_rows": 40, "zoom": 2.0},
    {"model": "ecgan", "contrast": "single", "contrast_rows": 9, "norm": "instance", "precision": "bf16-mixed"},
    {"model": "ecgan", "contrast": "none", "modules": "edge", "deterministic": True},
]
CASES = [pytest.param(case, id=",".join(map(str, case.values()))) for case in (*EQGAN, *ECGAN)]
FIRST = [CASES[0], CASES[len(EQGAN)]]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("data")
    return {"eqgan": runs.write_photos(root / "photos"), "ecgan": runs.write_layouts(root / "layouts")}


@pytest.fixture(autouse=True)
def as_on_a_gpu(monkeypatch):
    """Arguments are looked at as there, not at all; and steps are recorded as can be done here."""
    monkeypatch.setattr("pyeqgan.ops._checks.readable", lambda _: False)
    monkeypatch.setattr(engines, "CudaRecorder", HostRecorder)
    monkeypatch.setattr(graphs, "WARM_UP", 1)


def options(data, tmp_path, changed):
    make = runs.ecgan_options if changed.get("model") == "ecgan" else runs.run_options
    model = changed.get("model", "eqgan")
    return make(data[model], tmp_path / "run", **{"steps": STEPS, **changed})


def build(data, tmp_path, changed):
    system = open_system(options(data, tmp_path, changed))
    return Engine(system, launch("cpu", system.options.precision)), system


def advance(engine, system, stop):
    return [engine.advance(batch) for batch in system.batches(engine.step, stop, ROWS)]


def assert_same(one, other):
    parts = other.parts()
    for part, found in one.parts().items():
        for name, tensor in found.items():
            assert torch.equal(tensor, parts[part][name]), f"{part} {name}"


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("inside", [False, True], ids=["kernels", "oracles"])
def test_a_step_of_each_kind_reads_no_value(data, tmp_path, case, inside):
    engine, system = build(data, tmp_path, case)
    with NoReading(inside):
        losses = advance(engine, system, 2)[-1]
        with pytest.raises(AssertionError, match="_local_scalar_dense"):
            next(iter(losses.values())).item()


def test_all_that_are_drawn_to_contrast_are_as_many_as_the_labels_say(data, tmp_path):
    """Why --cuda-graph wants --contrast-rows."""
    engine, system = build(data, tmp_path, {"model": "ecgan"})
    with NoReading(), pytest.raises(AssertionError, match=r"aten\.index\.Tensor within a step"):
        advance(engine, system, 1)


class Elsewhere(Fabric):
    """A device that is not the host, as torch has one everywhere: its tensors have no values."""

    def __init__(self):
        super().__init__(accelerator="cpu", devices=1)

    @property
    def device(self):
        return torch.device("meta")

    def to_device(self, obj):
        return obj.to("meta")

    def backward(self, tensor):
        tensor.backward()

    def autocast(self):
        return contextlib.nullcontext()


@pytest.mark.parametrize("case", CASES)
def test_nothing_goes_between_host_and_device_within_a_step(data, tmp_path, monkeypatch, case):
    system = open_system(options(data, tmp_path, {**case, "precision": "32"}))
    monkeypatch.setattr(system, "optimizer", lambda _, network: torch.optim.SGD(network.parameters(), 1e-3))
    monkeypatch.setattr("pyeqgan.training.ecgan.step._at", lambda *_: None)  # there are no random numbers on "meta"
    generator = torch.Generator
    with monkeypatch.context() as patch:
        patch.setattr(torch, "Generator", lambda *_: generator())
        engine = Engine(system, Processes(Elsewhere()))
    play, kinds = engine._play, set()

    def watched(kind, inputs):
        assert {tensor.device.type for tensor in tensors(inputs)} == {"meta"}
        kinds.add(kind)
        with NoCrossing(), NoData():
            return play(kind, inputs)

    monkeypatch.setattr(engine, "_play", watched)
    losses = advance(engine, system, 2)
    assert len(kinds) == (2 if case.get("penalty_every") else 1)
    assert {loss.device.type for step in losses for loss in step.values()} == {"meta"}


@pytest.mark.parametrize(
    "crossing",
    [
        lambda x: x.cpu(),
        lambda x: x.copy_(torch.ones(3)),
        lambda x: x[torch.tensor([1, 0])],
        lambda x: x * torch.tensor(2.0).to("meta"),
        lambda x: x[[1, 0]],
        lambda x: x * x.new_tensor([1.0, 2.0, 3.0]),
        lambda x: x * torch.tensor([1.0, 2.0, 3.0], device="meta"),
    ],
)
def test_what_goes_between_host_and_device_is_noticed(crossing):
    refused = pytest.raises((AssertionError, NotImplementedError), match=r"within a step|Cannot copy out of meta")
    with NoCrossing(), NoData(), refused:
        crossing(torch.ones(3, device="meta"))


@pytest.mark.parametrize("reading", [torch.nonzero, torch.unique, lambda x: x[x > 0], lambda x: float(x[0]), torch.any])
def test_what_reads_a_value_is_noticed(reading):
    with NoReading(), contextlib.nullcontext() if reading is torch.any else pytest.raises(AssertionError):
        reading(torch.ones(3))


def test_a_recording_is_of_numbers_and_memory_not_of_python():
    """As a CUDA graph is, or replays would show nothing."""
    state, number = torch.zeros(3), iter(range(1, 9))

    def play(kind, inputs):
        state.add_(next(number) * inputs[0])
        return {"sum": state.sum(), "drawn": torch.rand((), generator=rng)}

    rng = torch.Generator()
    steps = StepGraphs(play, HostRecorder(torch.device("cpu"), rng))
    found = [steps(0, (torch.ones(3),)) for _ in range(5)]
    assert next(number) == 3, "one step without a graph, one recorded; none after it"
    assert [int(losses["sum"]) for losses in found] == [3, 9, 15, 21, 27], "the others add what the second did"
    assert len({float(losses["drawn"]) for losses in found}) == 5
    assert int(steps(1, (2 * torch.ones(3),))["sum"]) == 51, "another kind is played"
    assert int(steps(0, (2 * torch.ones(3),))["sum"]) == 63, "inputs are those of the step"


@pytest.mark.parametrize("case", CASES)
def test_replayed_steps_are_bit_for_bit_plain_ones(data, tmp_path, case):
    """With batch, plans, penalties and learning rates of each: those fall in the second half."""
    plain, system = build(data, tmp_path, case)
    replayed, _ = build(data, tmp_path, {**case, "cuda_graph": True})
    for step, (found, expected) in enumerate(
        zip(advance(replayed, system, STEPS), advance(plain, system, STEPS), strict=True)
    ):
        assert found.keys() == expected.keys()
        for name, loss in expected.items():
            assert torch.equal(found[name], loss), f"step {step}: {name}"
    kinds = 2 if case.get("penalty_every") else 1
    recorder = replayed._graphs._recorder
    assert (recorder.recorded, recorder.replayed) == (kinds, STEPS - kinds * graphs.WARM_UP)
    assert_same(replayed, plain)


@pytest.mark.parametrize("case", FIRST)
def test_going_on_from_a_checkpoint_between_replays(data, tmp_path, case):
    case = {**case, "cuda_graph": True, "steps": STEPS + 2}
    straight, system = build(data, tmp_path, case)
    advance(straight, system, 4)
    path = save_checkpoint(tmp_path, straight.step, straight.parts(), {})
    advance(straight, system, STEPS)
    fresh, _ = build(data, tmp_path, case)
    for engine in (fresh, straight):  # one that has recorded nothing, one that has other steps
        engine.load(load_checkpoint(path))
        advance(engine, system, STEPS + 2)
    assert straight._graphs._recorder.recorded > fresh._graphs._recorder.recorded > 0
    plain, _ = build(data, tmp_path, {**case, "cuda_graph": False})
    advance(plain, system, STEPS + 2)
    assert_same(fresh, plain)
    assert_same(straight, plain)


@pytest.mark.parametrize("case", CASES)
def test_steps_move_no_state(data, tmp_path, case):
    """A graph knows it by its place: a tensor put in the place of another would be written, and never read."""
    engine, system = build(data, tmp_path, {**case, "cuda_graph": True})

    def places():
        states = {f"{n}.{i}": s for n, o in engine._optimizers.items() for i, s in o.state_dict()["state"].items()}
        networks = {**engine.networks, "average": engine.average}
        modules = {name: dict(network.state_dict(keep_vars=True)) for name, network in networks.items()}
        rates = {name: {"lr": optimizer.param_groups[0]["lr"]} for name, optimizer in engine._optimizers.items()}
        found = [(f"{kind} {name} {key}", tensor.data_ptr()) for kind, trees in
                 (("state", states), ("module", modules), ("rate", rates))
                 for name, tree in trees.items() for key, tensor in tree.items()]  # fmt: skip
        return dict(found)

    advance(engine, system, 2 if case.get("penalty_every") else 1)
    before = places()
    advance(engine, system, STEPS)
    assert places() == before and len(before) > 100


def test_a_run_of_replayed_steps_ends_as_a_plain_one(data, tmp_path, monkeypatch):
    monkeypatch.setattr("pyeqgan.training.run.check_recordable", lambda _: None)
    run = {"steps": STEPS, "penalty_every": 2, "checkpoint_every": 4, "log_every": 3}
    assert runs.run(data["eqgan"], tmp_path / "plain", **run)[0] == 0
    assert runs.run(data["eqgan"], tmp_path / "replayed", cuda_graph=True, **run)[0] == 0
    runs.assert_same_end(tmp_path / "plain", tmp_path / "replayed", STEPS)
    assert "cuda_graph" not in (tmp_path / "replayed" / "config.yaml").read_text()


@pytest.mark.parametrize("name", ["discriminator/hinge_real", "generator/adversarial"])
def test_a_loss_of_a_replay_that_is_not_finite_ends_the_run(data, tmp_path, monkeypatch, name):
    monkeypatch.setattr("pyeqgan.training.run.check_recordable", lambda _: None)
    take, bad = StepGraphs._take, 5

    def spoiled(steps, inputs):
        take(steps, inputs)
        spoiled.step += 1
        if spoiled.step == bad:
            if name.startswith("discriminator"):
                steps._inputs[0].images.fill_(torch.nan)
            else:
                steps._inputs[1]["generator"].weights.fill_(torch.nan)

    spoiled.step = 0
    monkeypatch.setattr(StepGraphs, "_take", spoiled)
    with pytest.raises(UserError, match=f"{name} is nan at step {bad}; the last checkpoint is of step 4"):
        runs.run(data["eqgan"], tmp_path / "run", steps=STEPS, cuda_graph=True, log_every=1)


def test_inputs_are_tensors_of_one_shape():
    episode = FusionPlan(torch.ones(2, 3), torch.zeros(2, dtype=torch.int64), {4: torch.zeros(2, 5)})
    doubled = mapped(lambda tensor: 2 * tensor, (episode, None))
    assert isinstance(doubled[0], FusionPlan) and doubled[1] is None and float(doubled[0].weights[0, 0]) == 2
    assert len(tensors((episode, {"a": episode.base}))) == 4
    assert all(t.device.type == "meta" for t in tensors(on_device(episode, torch.device("meta"))))
    for wrong in (3, [torch.ones(2)], {"step": 1}):
        with pytest.raises(TypeError, match="expected tensors, got"):
            mapped(torch.clone, wrong)
    steps = StepGraphs(lambda kind, inputs: {}, HostRecorder(torch.device("cpu"), torch.Generator()))
    steps(0, torch.ones(2, 3))
    with pytest.raises(ValueError, match=r"expected shape \(2, 3\), got \(1, 3\)"):
        steps(0, torch.ones(1, 3))


def test_what_cannot_be_recorded_is_refused(data, tmp_path):
    for fields, message in (
        ({"profile": True}, "--profile tells a step's parts apart"),
        ({"compile": True}, "--compile has not been tried with it"),
        ({"model": "ecgan"}, "--cuda-graph: expected --contrast-rows"),
    ):
        with pytest.raises(UserError, match=message):
            options(data, tmp_path, {"cuda_graph": True, **fields})
    with pytest.raises(UserError, match="--cuda-graph: expected a CUDA device, got cpu"):
        runs.run(data["eqgan"], tmp_path / "run", cuda_graph=True)
    assert not (tmp_path / "run").exists()
    two = Processes(Elsewhere())
    two.count, two.fabric = 2, dataclasses.make_dataclass("Gpu", [])()
    two.fabric.device = torch.device("cuda")
    with pytest.raises(UserError, match="--cuda-graph: expected one process, got 2"):
        check_recordable(two)
