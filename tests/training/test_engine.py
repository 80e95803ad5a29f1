import gc
from itertools import pairwise

import pytest
import runs
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pyeqgan.data import EpisodeSampler, open_data
from pyeqgan.errors import UserError
from pyeqgan.training.checkpoint import load_checkpoint, save_checkpoint
from pyeqgan.training.device import deterministic_algorithms
from pyeqgan.training.engine import Engine, launch, learning_rate, step_rng
from pyeqgan.training.eqgan.system import EqGANSystem
from pyeqgan.training.progress import LossWindow

EVERY_LOSS = {"penalty_every": 2, "mode_seeking_weight": 1.0}


@pytest.fixture
def photos(tmp_path):
    torch.set_num_threads(1)
    return runs.write_photos(tmp_path / "photos")


def build(data, tmp_path, **changed):
    options = runs.run_options(data, tmp_path / "run", **changed)
    classes = open_data(options.data, image_size=32).seen
    sampler = EpisodeSampler(classes, batch_size=options.batch_size, shots=options.shots, seed=options.seed)
    return Engine(EqGANSystem(options), launch(options.device, options.precision)), sampler


def advance(engine, sampler, steps):
    losses = []
    for _ in range(steps):
        losses.append(engine.advance(sampler.episode(engine.step)))
    return losses


@pytest.mark.parametrize(
    "arithmetic",
    [{}, {"precision": "bf16-mixed"}, {"memory_format": "channels_last"}, {"deterministic": True}],
    ids=str,
)
def test_going_on_from_a_checkpoint_is_bitwise_the_same(photos, tmp_path, arithmetic, seed):
    options = {"seed": seed, **arithmetic, **EVERY_LOSS}
    straight, sampler = build(photos, tmp_path, **options)
    first = advance(straight, sampler, 2)
    path = save_checkpoint(tmp_path, straight.step, straight.parts(), {})
    second = advance(straight, sampler, 2)

    torch.rand(7)  # the global generator has no say
    resumed, sampler = build(photos, tmp_path, **options)
    resumed.load(load_checkpoint(path))
    assert advance(resumed, sampler, 2) == second
    assert first[0].keys() == second[0].keys() != second[1].keys(), "the penalty is due at every second step"

    assert resumed.step == straight.step == 4
    parts = resumed.parts()
    for part, tensors in straight.parts().items():
        assert tensors.keys() == parts[part].keys()
        for name, tensor in tensors.items():
            assert torch.equal(tensor, parts[part][name]), f"{part} {name}"
    references = sampler.episode(9).images[0]
    drawn = [engine.average.module.generate(references, 2, seed=5) for engine in (straight, resumed)]
    assert torch.equal(*drawn)


def test_a_step_changes_every_parameter_and_the_average_follows(photos, tmp_path):
    engine, sampler = build(photos, tmp_path)
    before = {part: {n: t.clone() for n, t in tensors.items()} for part, tensors in engine.parts().items()}
    advance(engine, sampler, 1)
    after = engine.parts()
    for part, network in engine.networks.items():
        for name, _ in network.named_parameters():
            assert not torch.equal(after[part][name], before[part][name]), f"{part} {name}"
    weights = [name for name, _ in engine.networks["generator"].named_parameters()]
    assert any(not torch.equal(after["ema"][name], after["generator"][name]) for name in weights)
    assert any(not torch.equal(after["ema"][name], before["ema"][name]) for name in weights)


def test_the_optimisers_are_as_published(photos, tmp_path):
    engine, sampler = build(photos, tmp_path, learning_rate=3e-4, weight_decay=2e-4)
    advance(engine, sampler, 3)  # of 4: the rate is falling
    for optimizer in engine._optimizers.values():
        (group,) = optimizer.param_groups
        assert (group["betas"], group["weight_decay"]) == ((0.5, 0.999), 2e-4)
        assert group["lr"] == pytest.approx(3e-4)
    advance(engine, sampler, 1)
    assert engine._optimizers["generator"].param_groups[0]["lr"] == pytest.approx(1.5e-4)


class NoReading(TorchDispatchMode):
    """Within: a tensor's value must not be read, for which an accelerator would have to be waited for."""

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        reading = (torch.ops.aten._local_scalar_dense, torch.ops.aten.is_nonzero, torch.ops.aten.nonzero)
        if function.overloadpacket in reading:
            raise AssertionError(f"{function} within a step")
        return function(*arguments, **(keywords or {}))


def test_a_step_reads_no_value(photos, tmp_path, monkeypatch):
    monkeypatch.setattr("pyeqgan.ops._checks.readable", lambda _: False)  # as for tensors of a GPU
    engine, sampler = build(photos, tmp_path, **EVERY_LOSS)
    window = LossWindow(launch("cpu", "32"))
    with NoReading():
        for losses in advance(engine, sampler, 2):
            window.add(engine.step, losses)
        with pytest.raises(AssertionError, match="_local_scalar_dense"):
            losses["generator/adversarial"].item()
    assert window.take().keys() >= {"discriminator/penalty", "generator/mode_seeking"}


def tensors_and_objects() -> tuple[int, int]:
    """Bytes of all tensors that Python knows, and how many objects; of what was frozen neither."""
    gc.collect()
    found = gc.get_objects()
    tensors = [t for t in found if issubclass(type(t), torch.Tensor)]
    storages = [t.untyped_storage() for t in tensors if t.layout == torch.strided]
    return sum({s.data_ptr(): s.nbytes() for s in storages}.values()), len(found)


def test_steps_leave_nothing_behind(photos, tmp_path):
    """A leak shows in every round; what is imported or cached late, in one."""
    engine, sampler = build(photos, tmp_path, **EVERY_LOSS)
    window = LossWindow(launch("cpu", "32"))

    def round_of_steps() -> tuple[int, int]:
        for losses in advance(engine, sampler, 8):
            window.add(engine.step, losses)
        window.take()
        return tensors_and_objects()

    gc.collect()
    gc.freeze()  # what other tests have left behind is not looked at
    try:
        counts = [round_of_steps() for _ in range(4)]
    finally:
        gc.unfreeze()
    growth = [(after[0] - before[0], after[1] - before[1]) for before, after in pairwise(counts)]
    assert min(growth[i][0] for i in range(3)) < 8 * 1024, f"bytes of tensors: {growth}"
    assert min(growth[i][1] for i in range(3)) < 8, f"objects: {growth}"


@pytest.mark.parametrize("memory_format", ["contiguous", "channels_last"])
def test_the_memory_format_is_that_of_the_weights_and_changes_no_result(photos, tmp_path, memory_format):
    plain, sampler = build(photos, tmp_path, fusion="mean")  # local fusion jumps from match to match
    engine, _ = build(photos, tmp_path, fusion="mean", memory_format=memory_format)
    weight = engine.networks["discriminator"].blocks[0].convolution1.weight
    assert weight.is_contiguous(memory_format=torch.channels_last) == (memory_format == "channels_last")
    for losses, expected in zip(advance(engine, sampler, 2), advance(plain, sampler, 2), strict=True):
        torch.testing.assert_close(losses, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_a_compiled_generator_has_the_same_losses(photos, tmp_path):
    plain, sampler = build(photos, tmp_path, fusion="mean")  # local fusion jumps from match to match
    compiled, _ = build(photos, tmp_path, fusion="mean", compile=True)
    assert compiled.parts().keys() == plain.parts().keys()
    for losses, expected in zip(advance(compiled, sampler, 3), advance(plain, sampler, 3), strict=True):
        torch.testing.assert_close(losses, expected, rtol=1e-3, atol=1e-4)
    assert compiled.networks["generator"]._compiled_call_impl is not None
    assert compiled.parts()["generator"].keys() == plain.parts()["generator"].keys()


def test_deterministic_algorithms_are_asked_for_and_then_no_more():
    numbers, place = torch.zeros(2), torch.tensor([0, 0])
    for wanted in (True, False):
        with deterministic_algorithms(wanted):
            assert torch.are_deterministic_algorithms_enabled() == wanted
            if wanted:
                with pytest.raises(RuntimeError, match="deterministic"):
                    numbers.put_(place, torch.ones(2))
        assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("part", ["generator", "discriminator"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_no_checkpoint(photos, tmp_path, part, value):
    engine, _ = build(photos, tmp_path)
    with torch.no_grad():
        name, parameter = next(engine.networks[part].named_parameters())
        parameter.view(-1)[0] = value
    with pytest.raises(UserError, match=f"{part}'s {name} is not finite after step 0"):
        engine.parts()


def test_images_that_are_not_finite_are_no_sample(photos, tmp_path):
    system = EqGANSystem(runs.run_options(photos, tmp_path / "run"))
    generator = system.build()["generator"].eval()
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.fill_(float("nan"))
    with pytest.raises(UserError, match="generated images are not finite"):
        system.draw(generator)


def test_the_learning_rate_is_constant_for_half_then_linear_to_zero():
    rates = [learning_rate(1e-4, step, 10) for step in range(11)]
    assert rates[:6] == [1e-4] * 6
    assert rates[5:] == pytest.approx([1e-4, 8e-5, 6e-5, 4e-5, 2e-5, 0])


def test_each_step_has_its_own_randomness():
    draws = {(seed, step): torch.rand(4, generator=step_rng(seed, step)) for seed in (0, 1) for step in range(3)}
    assert torch.equal(draws[1, 2], torch.rand(4, generator=step_rng(1, 2)))
    assert len({tuple(draw.tolist()) for draw in draws.values()}) == len(draws)
