import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pyeqgan.data.layouts import EmbeddedLayouts, LayoutSampler, View, open_layouts
from pyeqgan.data.layouts.embedded.landscape import CLASSES, FIELD, HILLS, SKY
from pyeqgan.data.layouts.embedded.painting import COATS
from pyeqgan.errors import UserError

SIZE = (64, 64)


def _layouts(part: str, count: int, rng: np.random.Generator, size: tuple[int, int] = SIZE) -> EmbeddedLayouts:
    return EmbeddedLayouts(part, count, size, int(rng.integers(2**31)))


def _luma_and_chroma(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Luma (H,W) in [0,1], and the two differences of colour (2,H,W)."""
    red, green, blue = np.moveaxis(image / 255.0, -1, 0)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    return luma, np.stack([(red - luma) / 1.402, (blue - luma) / 1.772])


def test_a_pair_depends_on_seed_part_and_index_alone(rng: np.random.Generator) -> None:
    seed = int(rng.integers(2**31))
    few, many = EmbeddedLayouts("train", 3, SIZE, seed), EmbeddedLayouts("train", 50, SIZE, seed)
    many.pair(1)
    for index in (2, 0):
        for first, second in zip(few.pair(index), many.pair(index), strict=True):
            assert np.array_equal(first, second)
        assert np.array_equal(few.instances(index), many.instances(index))
    assert not np.array_equal(few.pair(0)[1], EmbeddedLayouts("train", 3, SIZE, seed + 1).pair(0)[1])
    assert not np.array_equal(few.pair(0)[1], EmbeddedLayouts("test", 3, SIZE, seed).pair(0)[1])


def test_no_layout_is_in_both_parts_or_twice(rng: np.random.Generator) -> None:
    split = open_layouts("embedded-layouts", image_size=(32, 32), seed=int(rng.integers(2**31)))
    assert (len(split.train), len(split.test)) == (2000, 500)
    seen = [part.pair(index)[1].tobytes() for part in (split.train, split.test) for index in range(300)]
    assert len(set(seen)) == 600
    names = [part.name(index) for part in (split.train, split.test) for index in range(500)]
    assert len(set(names)) == 1000


@pytest.mark.parametrize("size", [(64, 64), (16, 16), (33, 50), (48, 20), (128, 256)])
def test_any_size_gives_a_whole_pair(size: tuple[int, int], rng: np.random.Generator) -> None:
    image, labels = _layouts("train", 1, rng, size).pair(0)
    assert image.shape == (*size, 3) and image.dtype == np.uint8 and image.flags.c_contiguous
    assert labels.shape == size and labels.dtype == np.int64 and labels.min() >= 0 and labels.max() < 6
    assert image.std() > 8 and len(np.unique(labels)) > 2


def test_a_scene_is_the_same_at_any_size(rng: np.random.Generator) -> None:
    seed = int(rng.integers(2**31))
    small, large = EmbeddedLayouts("train", 9, (32, 48), seed), EmbeddedLayouts("train", 9, (96, 144), seed)
    for index in range(8):
        shrunk = large.pair(index)[1][1::3, 1::3]
        assert (shrunk == small.pair(index)[1]).mean() > 0.99 > (shrunk == small.pair(index + 1)[1]).mean()
        colours = [layouts.pair(index)[0].reshape(-1, 3).mean(0) for layouts in (small, large)]
        assert np.abs(colours[0] - colours[1]).max() < 4


def test_a_view_shows_a_part_of_the_scene(rng: np.random.Generator) -> None:
    seed = int(rng.integers(2**31))
    small, large = EmbeddedLayouts("train", 4, (32, 48), seed), EmbeddedLayouts("train", 4, (64, 96), seed)
    for index in range(4):
        for x, y in ((0.5, 0.5), (0.0, 0.0), (1.0, 0.25)):
            rows, columns = slice(int(32 * y), int(32 * y) + 32), slice(int(48 * x), int(48 * x) + 48)
            image, labels = small.pair(index, View(2.0, x, y))
            whole_image, whole_labels = large.pair(index)
            assert (labels == whole_labels[rows, columns]).mean() > 0.99
            assert (np.abs(image.astype(int) - whole_image[rows, columns]) < 3).mean() > 0.99
            assert (small.instances(index, View(2.0, x, y)) == large.instances(index)[rows, columns]).mean() > 0.99


def test_an_image_has_one_hue_and_images_have_all(rng: np.random.Generator) -> None:
    layouts, hues = _layouts("train", 200, rng), []
    for index in range(200):
        chroma = _luma_and_chroma(layouts.pair(index)[0])[1].reshape(2, -1)
        strong = chroma[:, np.hypot(*chroma) > 0.04]
        assert strong.shape[1] > 0.2 * 64 * 64
        hue = np.arctan2(*strong)
        middle = np.arctan2(np.sin(hue).mean(), np.cos(hue).mean())
        assert np.abs(np.angle(np.exp(1j * (hue - middle)))).max() < 0.15
        hues.append(middle)
    assert np.histogram(hues, bins=8, range=(-np.pi, np.pi))[0].min() > 5


def test_no_pixel_mixes_two_classes(rng: np.random.Generator) -> None:
    """A texture is a factor: a pixel is its class's colour times a number near 1, so what it has of each is fixed."""
    layouts = _layouts("test", 30, rng)
    for index in range(30):
        image, labels = layouts.pair(index)
        luma, chroma = _luma_and_chroma(image)
        for label, coat in enumerate(COATS):
            shown = (labels == label) & (image.max(-1) < 255)
            light = luma[labels == label] / coat.lightness
            assert np.abs(light - 1).max(initial=0) < (0.75 if coat.lightness < 0.2 else 0.3)
            if shown.sum() > 20:
                share = np.hypot(*chroma[:, shown]) / luma[shown]
                assert np.abs(share - np.median(share)).max() < 0.012 / coat.lightness


def test_every_class_has_a_texture_of_its_own(rng: np.random.Generator) -> None:
    """The spectra of the textures alone, whatever their strength, are not alike."""
    from pyeqgan.data.layouts.embedded.scenes import _grid

    grid = _grid(SIZE, View())
    x, y = (np.broadcast_to(points, SIZE).ravel() for points in (grid.x, grid.y))
    spectra = []
    for coat in COATS:
        power = np.zeros(SIZE)
        for _ in range(8):
            texture = coat.texture(x, y, grid, rng).reshape(SIZE)
            assert texture.std() > 0.01
            power += np.abs(np.fft.fft2(texture - texture.mean())) ** 2
        spectra.append((power / np.linalg.norm(power)).ravel())
    likeness = np.array(spectra) @ np.array(spectra).T
    assert likeness[np.triu_indices(6, 1)].max() < 0.5


def test_every_class_is_seen_often(rng: np.random.Generator) -> None:
    layouts = _layouts("train", 200, rng)
    shares = np.array([np.bincount(layouts.pair(i)[1].ravel(), minlength=6) for i in range(200)]) / 64**2
    assert shares.mean(0).min() > 0.05 and ((shares > 0.01).mean(0) > 0.6).all()
    assert layouts.num_classes == 6 and layouts.class_names == CLASSES


def test_things_are_of_one_class_and_several(rng: np.random.Generator) -> None:
    layouts, counts = _layouts("train", 50, rng), []
    for index in range(50):
        labels, things = layouts.pair(index)[1], layouts.instances(index)
        assert things.dtype == np.int32 and things.shape == labels.shape
        assert np.array_equal(things == 0, np.isin(labels, (SKY, HILLS, FIELD)))
        numbers = np.unique(things[things > 0])
        assert all(len(np.unique(labels[things == number])) == 1 for number in numbers)
        counts.append(len(numbers))
    assert min(counts) >= 1 and max(counts) >= 6


def test_arguments_are_checked() -> None:
    for arguments, message in (
        (("train", 0, SIZE, 0), "number of layouts 0, expected at least 1"),
        (("train", 1, SIZE, -1), "seed -1, expected at least 0"),
        (("train", 1, (15, 64), 0), "image height 15, expected 16 to 4096"),
        (("train", 1, (64, 4097), 0), "image width 4097, expected 16 to 4096"),
        (("train", 1, (64.0, 64), 0), "image height 64.0, expected 16 to 4096"),
    ):
        with pytest.raises(UserError, match=message):
            EmbeddedLayouts(*arguments)
    layouts = EmbeddedLayouts("train", 2, SIZE, 0)
    for index in (-1, 2):
        for call in (layouts.pair, layouts.instances, layouts.name):
            with pytest.raises(IndexError):
                call(index)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_segmenter_reads_the_labels_from_the_image(rng: np.random.Generator) -> None:
    split = open_layouts("embedded-layouts", image_size=SIZE, seed=int(rng.integers(2**31)))
    torch.manual_seed(int(rng.integers(2**31)))
    widths = (3, 24, 24, 32, 32, 32)
    layers = [
        nn.Sequential(nn.Conv2d(i, o, 3, padding=d, dilation=d), nn.BatchNorm2d(o), nn.ReLU())
        for i, o, d in zip(widths, widths[1:], (1, 1, 2, 4, 2), strict=False)
    ]
    segmenter = nn.Sequential(*layers, nn.Conv2d(32, 6, 1))
    sampler, steps = LayoutSampler(split.train, batch_size=8, seed=0), 300
    optimizer = torch.optim.Adam(segmenter.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0.01, steps)
    for step in range(steps):
        batch = sampler.batch(step)
        optimizer.zero_grad()
        F.cross_entropy(segmenter(batch.images), batch.labels).backward()
        optimizer.step()
        schedule.step()
    segmenter.eval()
    confusion = torch.zeros(6, 6)
    with torch.no_grad():
        for step in range(8):
            batch = LayoutSampler(split.test, batch_size=25, seed=0).batch(step)
            codes = batch.labels * 6 + segmenter(batch.images).argmax(1)
            confusion += torch.bincount(codes.flatten(), minlength=36).view(6, 6)
    overlap = confusion.diag() / (confusion.sum(0) + confusion.sum(1) - confusion.diag())
    assert overlap.mean() >= 0.97
