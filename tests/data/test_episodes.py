import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from pyeqgan.data import EpisodeSampler, prefetch, to_tensor, to_uint8
from pyeqgan.errors import UserError


class Coded:
    """Images that say which they are: red is the class, green the number, and blue grows from left to right."""

    image_size = 32

    def __init__(self, *counts: int) -> None:
        self.counts = counts
        self.class_names: Sequence[str] = [f"name{index}" for index in range(len(counts))]

    def __len__(self) -> int:
        return len(self.counts)

    def count(self, class_index: int) -> int:
        return self.counts[class_index]

    def image(self, class_index: int, image_index: int) -> np.ndarray:
        assert 0 <= class_index < len(self) and 0 <= image_index < self.count(class_index)
        image = np.empty((32, 32, 3), np.uint8)
        image[...] = class_index, image_index, 0
        image[..., 2] = np.arange(32)
        image.flags.writeable = False
        return image


def _sampler(*counts: int, batch_size: int = 4, shots: int = 3, seed: int = 0, flip: bool = True) -> EpisodeSampler:
    return EpisodeSampler(Coded(*counts), batch_size=batch_size, shots=shots, seed=seed, flip=flip)


def _drawn(images: torch.Tensor) -> np.ndarray:
    return to_uint8(images)[:, :, 0, 0]


def test_shapes_types_and_range() -> None:
    episode = _sampler(*[5] * 9).episode(0)
    assert episode.images.shape == (4, 3, 3, 32, 32) and episode.images.dtype == torch.float32
    assert episode.labels.shape == (4,) and episode.labels.dtype == torch.int64
    assert episode.images.is_contiguous() and episode.images.min() >= -1 and episode.images.max() <= 1


def test_an_episode_holds_distinct_images_of_its_class(rng: np.random.Generator) -> None:
    sampler = _sampler(*rng.integers(3, 9, 11).tolist(), seed=int(rng.integers(2**31)))
    for step in range(50):
        episode = sampler.episode(step)
        drawn = _drawn(episode.images)
        assert (drawn[:, :, 0] == episode.labels.numpy()[:, None]).all()
        assert all(len(set(row)) == 3 for row in drawn[:, :, 1].tolist())
        assert len(set(episode.labels.tolist())) == 4


@pytest.mark.parametrize(("classes", "batch_size"), [(1, 5), (3, 8), (4, 4), (5, 11)])
def test_classes_return_only_when_all_others_are_drawn(classes: int, batch_size: int) -> None:
    sampler = _sampler(*[3] * classes, batch_size=batch_size)
    for step in range(20):
        times = np.bincount(sampler.episode(step).labels, minlength=classes)
        assert times.sum() == batch_size and times.max() - times.min() <= 1


def test_an_episode_depends_on_seed_and_step_alone(rng: np.random.Generator) -> None:
    seed, step = (int(value) for value in rng.integers(2**31, size=2))
    torch.manual_seed(0)
    first = _sampler(*[9] * 9, seed=seed).episode(step)
    sampler = _sampler(*[9] * 9, seed=seed)
    sampler.episode(step + 1)
    torch.manual_seed(1)
    np.random.seed(1)
    second = sampler.episode(step)
    assert torch.equal(first.images, second.images) and torch.equal(first.labels, second.labels)
    assert not torch.equal(first.images, _sampler(*[9] * 9, seed=seed + 1).episode(step).images)


def test_no_step_repeats_another() -> None:
    """The published sampler reseeds with the item's number: every epoch repeats the first."""
    sampler = _sampler(*[20] * 20)
    seen = {_drawn(sampler.episode(step).images).tobytes() for step in range(300)}
    assert len(seen) == 300


def test_every_class_and_image_is_drawn_as_often() -> None:
    sampler = _sampler(*[6] * 6, batch_size=3, shots=2)
    times = np.zeros((6, 6))
    for step in range(1000):
        drawn = _drawn(sampler.episode(step).images).reshape(-1, 3)
        np.add.at(times, (drawn[:, 0], drawn[:, 1]), 1)
    expected = 1000 * 6 / 36  # standard deviation about 12
    assert np.abs(times - expected).max() < 6 * 12


def test_half_of_the_images_are_mirrored_one_by_one() -> None:
    mirrored = []
    for step in range(200):
        images = to_uint8(_sampler(*[9] * 9).episode(step).images)
        blue = images[..., 0, :, 2]
        forwards, backwards = (blue == np.arange(32)).all(-1), (blue == np.arange(32)[::-1]).all(-1)
        assert (forwards ^ backwards).all()
        mirrored.append(backwards)
    share = np.mean(mirrored)
    assert 0.45 < share < 0.55
    assert 0 < np.mean([rows.all(1).mean() for rows in mirrored]) < 0.25  # not one coin for a whole class


def test_without_flip_the_same_images_are_drawn_unmirrored() -> None:
    with_flip, without = _sampler(*[9] * 9).episode(3), _sampler(*[9] * 9, flip=False).episode(3)
    assert torch.equal(with_flip.images[:, :, :2], without.images[:, :, :2])
    assert (to_uint8(without.images)[..., 2] == np.arange(32)).all()


def test_the_source_is_not_changed() -> None:
    classes = Coded(3)
    sampler = EpisodeSampler(classes, batch_size=1, shots=3, seed=0)
    sampler.episode(0).images.zero_()
    assert classes.image(0, 0)[0, 31, 2] == 31


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch size 0, expected at least 1"),
        ({"shots": 0}, "shots 0, expected at least 1"),
        ({"shots": -2}, "shots -2, expected at least 1"),
        ({"seed": -1}, "seed -1, expected at least 0"),
        ({"shots": 4}, r"class 'name1' has 3 images, expected at least 4 \(shots 4\)"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        _sampler(5, 3, **arguments)


def test_no_classes_and_no_negative_step() -> None:
    with pytest.raises(UserError, match="no classes"):
        _sampler()
    with pytest.raises(ValueError, match="step -1"):
        _sampler(3).episode(-1)


def test_bytes_survive_the_round_trip() -> None:
    values = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, -1)
    tensor = to_tensor(values)
    assert tensor.shape == (1, 3, 16, 16) and tensor.min() == -1 and tensor.max() == 1
    assert np.array_equal(to_uint8(tensor), values)


def test_to_tensor_takes_any_layout(rng: np.random.Generator) -> None:
    values = rng.integers(0, 256, (2, 5, 8, 6, 3), dtype=np.uint8)
    expected = torch.from_numpy(values.astype(np.float32)).permute(0, 1, 4, 2, 3) / 127.5 - 1
    frozen = values.copy()
    frozen.flags.writeable = False
    for given in (values, frozen, np.asfortranarray(values)):
        assert torch.equal(to_tensor(given), expected)
    assert torch.equal(to_tensor(values[:, :, ::-1, ::-1]), expected.flip(-1, -2))
    one = np.zeros((1, 1, 3), np.uint8)
    one.flags.writeable = False
    assert torch.equal(to_tensor(one), torch.full((3, 1, 1), -1.0))


def test_to_uint8_clamps_and_rounds() -> None:
    values = torch.tensor([-9.0, -1.0, -0.9961, -0.9960, 0.999, 1.0, torch.inf, -torch.inf]).expand(3, 1, 8)
    assert to_uint8(values)[0, :, 0].tolist() == [0, 0, 0, 1, 255, 255, 255, 0]
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        assert to_uint8(torch.zeros(3, 2, 2, dtype=dtype, requires_grad=True)).tolist() == [[[128] * 3] * 2] * 2


def test_conversions_refuse_other_types_and_shapes() -> None:
    with pytest.raises(TypeError, match="dtype float64, expected uint8"):
        to_tensor(np.zeros((4, 4, 3)))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"shape \(3, 4, 4\)"):
        to_tensor(np.zeros((3, 4, 4), np.uint8))
    with pytest.raises(TypeError, match=r"torch\.uint8, expected floating point"):
        to_uint8(torch.zeros(3, 4, 4, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"shape \(4, 4, 3\)"):
        to_uint8(torch.zeros(4, 4, 3))
    with pytest.raises(ValueError, match="NaN"):
        to_uint8(torch.full((3, 4, 4), torch.nan))


def _workers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("episodes")]


@pytest.mark.parametrize("workers", [1, 2, 7])
def test_prefetch_gives_every_episode_in_order(workers: int) -> None:
    sampler = _sampler(*[5] * 9)
    episodes = list(prefetch(sampler, 7, 27, workers=workers))
    assert len(episodes) == 20 and not _workers()
    assert all(torch.equal(episode.images, sampler.episode(7 + i).images) for i, episode in enumerate(episodes))
    assert list(prefetch(sampler, 5, 5)) == []


class Counting(Coded):
    """Counts the images asked for, and fails at one of them."""

    def __init__(self, *counts: int, fails_at: int = 10**9) -> None:
        super().__init__(*counts)
        self.fails_at, self.asked = fails_at, 0

    def image(self, class_index: int, image_index: int) -> np.ndarray:
        self.asked += 1
        if self.asked == self.fails_at:
            raise UserError("cannot read image 'x.jpg'")
        return super().image(class_index, image_index)


def test_prefetch_works_ahead_but_not_far() -> None:
    classes = Counting(3)
    episodes = prefetch(EpisodeSampler(classes, batch_size=1, shots=1, seed=0), 0, 1000, depth=4)
    assert classes.asked == 0 and not _workers()
    next(episodes)
    deadline = time.monotonic() + 120
    while classes.asked < 5 and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.05)
    assert classes.asked == 5
    episodes.close()
    assert not _workers()


def test_prefetch_raises_at_the_step_it_belongs_to() -> None:
    classes = Counting(3, fails_at=6)
    episodes = prefetch(EpisodeSampler(classes, batch_size=1, shots=1, seed=0), 0, 100)
    for _ in range(5):
        next(episodes)
    with pytest.raises(UserError, match=r"cannot read image 'x\.jpg'"):
        next(episodes)
    with pytest.raises(StopIteration):
        next(episodes)
    assert not _workers()


def test_a_forgotten_prefetch_ends_its_thread() -> None:
    episodes = prefetch(_sampler(3, batch_size=1), 0, 100)
    next(episodes)
    assert len(_workers()) == 1
    del episodes
    assert not _workers()


def test_workers_prepare_episodes_at_the_same_time() -> None:
    """Each waits until all three are at it: one after the other they would wait for ever."""
    together = threading.Barrier(3, timeout=60)

    class Meeting(Coded):
        def image(self, class_index: int, image_index: int) -> np.ndarray:
            together.wait()
            return super().image(class_index, image_index)

    sampler = EpisodeSampler(Meeting(3), batch_size=1, shots=1, seed=0)
    assert len(list(prefetch(sampler, 0, 3, depth=1, workers=3))) == 3


@pytest.mark.parametrize("name", ["depth", "workers"])
def test_prefetch_needs_a_depth_and_a_worker(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} 0"):
        prefetch(_sampler(3), 0, 1, **{name: 0})


def test_rows_are_those_of_the_whole_draw(rng: np.random.Generator) -> None:
    seed, classes = int(rng.integers(2**31)), Coded(*[5] * 9)
    whole, part = (
        EpisodeSampler(classes, batch_size=6, shots=3, seed=seed, rows=rows) for rows in (slice(None), slice(2, 4))
    )
    for step in range(5):
        assert torch.equal(part.episode(step).images, whole.episode(step).images[2:4])
        assert torch.equal(part.episode(step).labels, whole.episode(step).labels[2:4])
