from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch

from pyeqgan.data import LayoutBatch, LayoutSampler, View, canny, prefetch_layouts, to_uint8
from pyeqgan.data.layouts import Coding, EmbeddedLayouts, Thresholds, instance_edges
from pyeqgan.errors import UserError

FAINT = Thresholds(50, 100)  # that finds the edge in blue


class Coded:
    """Pairs that say which they are: red is the index, green the column and label, blue the column of the instances.

    The views that were asked for are kept.
    """

    num_classes, class_names, image_size = 20, tuple(map(str, range(20))), (16, 20)
    coding = Coding(20, ignored=255)

    def __init__(self, count: int, has_instances: bool = True) -> None:
        self.count, self.has_instances, self.views = count, has_instances, []

    def __len__(self) -> int:
        return self.count

    def name(self, index: int) -> str:
        return str(index)

    def pair(self, index: int, view: View = View()) -> tuple[np.ndarray, np.ndarray]:  # noqa: B008
        assert 0 <= index < self.count
        self.views.append(view)
        image = np.zeros((16, 20, 3), np.uint8)
        image[..., 0], image[..., 1] = index, np.arange(20)
        image[..., 2] = 255 * (np.arange(20) > 5)
        image.flags.writeable = False
        return image, np.tile(np.arange(20), (16, 1))

    def instances(self, index: int, view: View = View()) -> np.ndarray:  # noqa: B008
        return np.tile((np.arange(20) > 12).astype(np.int32), (16, 1))


def _sampler(count: int = 9, **options: Any) -> LayoutSampler:
    return LayoutSampler(Coded(count), **{"batch_size": 4, "seed": 0, "thresholds": FAINT, **options})


def _indices(batch: LayoutBatch) -> list[int]:
    return to_uint8(batch.images)[:, 0, 0, 0].tolist()


def _same(first: LayoutBatch, second: LayoutBatch) -> bool:
    pairs = [(getattr(first, field.name), getattr(second, field.name)) for field in fields(LayoutBatch)]
    return all(a is b is None or torch.equal(a, b) for a, b in pairs)


def test_shapes_types_and_range() -> None:
    batch = _sampler(with_instances=True).batch(0)
    assert batch.images.shape == (4, 3, 16, 20) and batch.images.dtype == torch.float32
    assert batch.images.min() >= -1 and batch.images.max() <= 1
    assert batch.labels.shape == (4, 16, 20) and batch.labels.dtype == torch.int64
    assert batch.edges.shape == (4, 1, 16, 20) and batch.edges.dtype == torch.float32
    assert set(batch.edges.unique().tolist()) == {-1.0, 1.0}
    assert batch.instance_edges is not None and batch.instance_edges.shape == (4, 1, 16, 20)
    assert set(batch.instance_edges.unique().tolist()) == {0.0, 1.0}
    assert all(getattr(batch, field.name).is_contiguous() for field in fields(batch))
    assert _sampler().batch(0).instance_edges is None


def test_a_batch_depends_on_seed_and_step_alone(rng: np.random.Generator) -> None:
    seed, step = (int(value) for value in rng.integers(2**20, size=2))
    torch.manual_seed(0)
    first = _sampler(seed=seed, zoom=1.5).batch(step)
    sampler = _sampler(seed=seed, zoom=1.5)
    for other in (step + 1, 0, step + 10_000):
        sampler.batch(other)
    torch.manual_seed(1)
    np.random.seed(1)
    assert _same(sampler.batch(step), first)
    others = [_sampler(seed=seed + 1, zoom=1.5).batch(step), sampler.batch(step + 9)]
    assert not any(_same(other, first) for other in others)


@pytest.mark.parametrize(("count", "batch_size"), [(9, 4), (3, 8), (5, 5), (1, 3)])
def test_every_pair_is_drawn_once_before_one_is_drawn_again(count: int, batch_size: int) -> None:
    sampler, rounds = _sampler(count, batch_size=batch_size), 12
    drawn = [index for step in range(-(-rounds * count // batch_size)) for index in _indices(sampler.batch(step))]
    orders = [drawn[start : start + count] for start in range(0, rounds * count, count)]
    assert all(sorted(order) == list(range(count)) for order in orders)
    assert count < 5 or len({tuple(order) for order in orders}) > rounds // 2


def test_rows_are_those_of_the_whole_draw(rng: np.random.Generator) -> None:
    seed = int(rng.integers(2**31))
    layouts = EmbeddedLayouts("train", 20, (32, 32), seed)
    whole, part = (
        LayoutSampler(layouts, batch_size=6, seed=seed, zoom=2.0, rows=rows, with_instances=True)
        for rows in (slice(None), slice(2, 4))
    )
    for step in range(5):
        expected = {field.name: getattr(whole.batch(step), field.name)[2:4] for field in fields(LayoutBatch)}
        assert _same(part.batch(step), LayoutBatch(**expected))


def test_half_are_mirrored_with_all_that_belongs_to_them() -> None:
    sampler, mirrored = _sampler(with_instances=True), []
    for step in range(100):
        batch = sampler.batch(step)
        assert batch.instance_edges is not None
        columns = to_uint8(batch.images)[..., 1]
        assert np.array_equal(columns, batch.labels.numpy())
        for row in range(4):
            turned = bool(columns[row, 0, 0] == 19)
            mirrored.append(turned)
            assert np.array_equal(columns[row, 0], np.arange(20)[:: -1 if turned else 1])
            assert (batch.instance_edges[row, 0, :, [6, 7] if turned else [12, 13]] == 1).all()
            assert batch.instance_edges[row].sum() == 32
            edge = (batch.edges[row, 0] > 0).any(0).nonzero().flatten()
            assert set(edge.tolist()) <= ({13, 14} if turned else {5, 6}) and len(edge)
    assert 0.4 < np.mean(mirrored) < 0.6
    assert all(_indices(_sampler(flip=False).batch(step)) == _indices(sampler.batch(step)) for step in range(3))
    assert all(to_uint8(_sampler(flip=False).batch(step).images)[:, 0, 0, 1].max() == 0 for step in range(20))


def test_edges_are_of_the_image_that_is_seen(rng: np.random.Generator) -> None:
    layouts = EmbeddedLayouts("train", 8, (48, 32), int(rng.integers(2**31)))
    thresholds = Thresholds(60, 120)
    sampler = LayoutSampler(layouts, batch_size=4, seed=1, zoom=2.0, thresholds=thresholds, with_instances=True)
    batch, plain = sampler.batch(0), LayoutSampler(layouts, batch_size=4, seed=1, zoom=2.0).batch(0)
    assert np.array_equal(batch.edges[:, 0].numpy(), canny(to_uint8(batch.images), thresholds))
    assert torch.equal(plain.images, batch.images) and not torch.equal(plain.edges, batch.edges)


def test_image_labels_and_instances_have_one_view() -> None:
    sampler = _sampler(zoom=3.0, with_instances=True, batch_size=1)
    seen = []

    def note(index: int, view: View) -> np.ndarray:
        seen.append(view)
        return np.zeros((16, 20), np.int32)

    sampler.images.instances = note
    for step in range(300):
        sampler.batch(step)
    views = np.array(sampler.images.views)
    assert seen == sampler.images.views
    assert views[:, 0].min() >= 1 and 2.8 < views[:, 0].max() <= 3 and 1.9 < views[:, 0].mean() < 2.1
    assert views[:, 1:].min() < 0.05 and views[:, 1:].max() > 0.95 and (views[:, 1:] <= 1).all()
    middle = _sampler()
    middle.batch(0)
    assert set(middle.images.views) == {View(1.0, 0.5, 0.5)}


def test_the_source_is_not_changed() -> None:
    layouts = EmbeddedLayouts("train", 2, (32, 32), 0)
    before = layouts.pair(0)
    batch = LayoutSampler(layouts, batch_size=2, seed=0).batch(0)
    batch.images.zero_()
    batch.labels.zero_()
    assert all(np.array_equal(a, b) for a, b in zip(before, layouts.pair(0), strict=True))


def test_workers_prepare_the_same_batches_in_order() -> None:
    sampler = LayoutSampler(EmbeddedLayouts("train", 7, (32, 32), 0), batch_size=3, seed=5, zoom=1.4)
    alone = [sampler.batch(step) for step in range(4, 16)]
    for workers, depth in ((1, 1), (4, 2)):
        ahead = list(prefetch_layouts(sampler, 4, 16, workers=workers, depth=depth))
        assert len(ahead) == 12 and all(_same(a, b) for a, b in zip(ahead, alone, strict=True))
    with pytest.raises(ValueError, match="workers 0"):
        prefetch_layouts(sampler, 0, 1, workers=0)


def test_instance_edges_are_those_of_the_instances(rng: np.random.Generator) -> None:
    layouts = EmbeddedLayouts("train", 1, (32, 32), int(rng.integers(2**31)))
    batch = LayoutSampler(layouts, batch_size=1, seed=0, flip=False, with_instances=True).batch(0)
    assert batch.instance_edges is not None
    assert np.array_equal(batch.instance_edges[0, 0].numpy(), instance_edges(layouts.instances(0)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch size 0, expected at least 1"),
        ({"seed": -1}, "seed -1, expected at least 0"),
        ({"zoom": 0.9}, r"zoom 0\.9, expected 1 to 16"),
        ({"zoom": float("nan")}, "zoom nan, expected 1 to 16"),
        ({"zoom": float("inf")}, "zoom inf, expected 1 to 16"),
        ({"count": 0}, "no layouts to draw from"),
    ],
)
def test_bad_arguments_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        _sampler(**options)


def test_instances_that_are_not_known_are_refused() -> None:
    with pytest.raises(UserError, match="no instance maps"):
        LayoutSampler(Coded(3, has_instances=False), batch_size=1, seed=0, with_instances=True)


def test_no_negative_step() -> None:
    with pytest.raises(ValueError, match="step -1"):
        _sampler().batch(-1)
