"""Classifiers of the unseen classes, with and without generated images."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pyeqgan.data import Split, to_tensor
from pyeqgan.errors import UserError
from pyeqgan.evaluation import DownstreamConfig, FeatureConfig, classify_downstream
from pyeqgan.evaluation.classify import read_images, train_feature_network
from pyeqgan.evaluation.features import FeatureNetwork
from pyeqgan.evaluation.generators import copy_reference

QUICK = DownstreamConfig(generated_per_class=12, steps=20, batch_size=16, validate_every=10)


@pytest.fixture(scope="module")
def network(split: Split) -> FeatureNetwork:
    config = FeatureConfig(steps=20, batch_size=24)
    return train_feature_network(split.seen, config, device=torch.device("cpu")).eval()


@pytest.fixture(scope="module")
def unseen(stripes: Callable) -> object:
    return stripes([40] * 4, first=200)


def test_flowers_images_are_split_as_published(network: FeatureNetwork, unseen: object) -> None:
    before, told = copy.deepcopy(network.state_dict()), []
    found = classify_downstream(
        copy_reference,
        unseen,
        network,
        shots=3,
        repeats=3,
        config=QUICK,
        progress=lambda *step: told.append(step),  # type: ignore[arg-type]
    )
    assert found.images == {"train": 40, "generated": 48, "validation": 60, "test": 60}  # 10, 12, 15 and 15 a class
    assert found.chance == 1 / 4 and found.repeats == 3
    assert found.without.value > 2 * found.chance
    assert found.difference.value == pytest.approx(found.with_generated.value - found.without.value)
    for estimate in (found.without, found.with_generated, found.difference):
        assert estimate.interval is not None
        assert estimate.interval[0] <= estimate.value <= estimate.interval[1]
    assert [step for _, step, _ in told] == [1, 2, 3, 4, 5, 6] and told[-1][2] == 6
    after = network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_it_repeats_with_its_seed(network: FeatureNetwork, unseen: object) -> None:
    short = DownstreamConfig(generated_per_class=12, steps=4, batch_size=16, learning_rate=5e-4)  # leaves mistakes
    found = [
        classify_downstream(copy_reference, unseen, network, shots=3, repeats=1, seed=seed, config=short)  # type: ignore[arg-type]
        for seed in (4, 4, 5, 6)
    ]
    assert found[0] == found[1] and found[0].difference.interval is None
    assert found[0] != found[2] or found[0] != found[3]


def test_each_repeat_shuffles_the_images(network: FeatureNetwork, unseen: object) -> None:
    given: list[bytes] = []

    def generate(references: Tensor, count: int, generator: torch.Generator) -> Tensor:
        given.append(references.numpy().tobytes())
        return copy_reference(references, count, generator)

    short = DownstreamConfig(generated_per_class=2, steps=1, batch_size=2)
    classify_downstream(generate, unseen, network, shots=3, repeats=3, config=short)  # type: ignore[arg-type]
    assert len(given) == len(set(given)) == 3 * 4


def test_images_of_other_classes_do_harm_and_leave_the_other_training_alone(
    network: FeatureNetwork, unseen: object, stripes: Callable
) -> None:
    class Wrong:
        """Gives each class images of the next one, which is what a classifier then learns."""

        def __init__(self) -> None:
            self.calls = 0

        def __call__(self, references: Tensor, count: int, generator: torch.Generator) -> Tensor:
            index, self.calls = (self.calls + 1) % 4, self.calls + 1
            return to_tensor(read_images(stripes([90] * 4, first=200), index, range(40, 40 + count)))

    config = DownstreamConfig(generated_per_class=50, steps=25, batch_size=16, validate_every=25)
    wrong, copies = (
        classify_downstream(g, unseen, network, shots=3, repeats=1, config=config)  # type: ignore[arg-type]
        for g in (Wrong(), copy_reference)
    )
    assert wrong.without == copies.without
    assert wrong.with_generated.value < copies.with_generated.value - 0.2
    assert wrong.difference.value < -0.2


def test_small_classes_and_a_single_one_are_refused(network: FeatureNetwork, stripes: Callable) -> None:
    with pytest.raises(UserError, match="unseen class 'stripes 51' has 5 images, expected at least 7"):
        classify_downstream(copy_reference, stripes([20, 5], first=50), network, shots=3, config=QUICK)
    with pytest.raises(ValueError, match="expected at least 2 classes, got 1"):
        classify_downstream(copy_reference, stripes([20]), network, shots=3, config=QUICK)
