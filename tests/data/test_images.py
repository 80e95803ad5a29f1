import threading
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from pyeqgan.data.images import PixelCache, Pixels, check_image_size, check_index, fit_square, reason
from pyeqgan.errors import UserError


@pytest.mark.parametrize("size", [32, 48, 64, 128, 240, 256])
def test_a_legal_image_size_passes(size: int) -> None:
    assert check_image_size(size) == size


@pytest.mark.parametrize("size", [50, 0, -32, 16, 272, 33, True, 64.0, "64", None])
def test_an_illegal_image_size_is_named(size: object) -> None:
    with pytest.raises(UserError, match=r"image size .*, expected a multiple of 16 from 32 to 256") as raised:
        check_image_size(size)  # type: ignore[arg-type]
    assert repr(size) in str(raised.value)


@pytest.mark.parametrize("index", [-1, 3, 100])
def test_an_index_never_wraps(index: int) -> None:
    with pytest.raises(IndexError, match=rf"image {index}, expected 0 to 2"):
        check_index("image", index, 3)
    assert check_index("image", np.int64(2), 3) == 2


def test_fit_square_takes_the_middle_of_either_side(rng: np.random.Generator) -> None:
    square = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
    wide = np.concatenate([np.full((40, 10, 3), 7, np.uint8), square, np.full((40, 10, 3), 9, np.uint8)], axis=1)
    for image in (wide, wide.transpose(1, 0, 2)):
        middle = square if image is wide else square.transpose(1, 0, 2)
        assert np.array_equal(fit_square(Image.fromarray(image), 40), middle)


def test_fit_square_is_antialiased() -> None:
    chequers = np.indices((256, 256)).sum(0) % 2 * 255
    small = fit_square(Image.fromarray(np.repeat(chequers[..., None], 3, 2).astype(np.uint8)), 32)
    assert np.abs(small.astype(int) - 127).max() <= 2  # nearest neighbour would give 0 or 255


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (5000, 1), (2, 3)])
def test_fit_square_of_extreme_shapes_keeps_the_colour(shape: tuple[int, int]) -> None:
    image = np.full((*shape, 3), (10, 200, 60), np.uint8)
    assert (fit_square(Image.fromarray(image), 32) == (10, 200, 60)).all()


def test_reason_is_one_line() -> None:
    assert reason(ValueError("first\nsecond")) == "first"
    assert reason(EOFError()) == "EOFError"


def _image(value: int) -> Callable[[], Pixels]:
    return lambda: np.full((10, 10, 3), value, np.uint8)


def test_the_cache_drops_what_was_used_longest_ago() -> None:
    cache = PixelCache(max_bytes=3 * 300)
    first, second = cache.get(1, _image(1)), cache.get(2, _image(2))
    cache.get(3, _image(3))
    assert cache.get(1, _image(99)) is first
    cache.get(4, _image(4))  # 2 was used longest ago
    assert cache.get(1, _image(99)) is first
    again = cache.get(2, _image(5))
    assert again is not second and (again == 5).all()
    assert cache.nbytes == 3 * 300


def test_the_cache_is_read_only_and_keeps_nothing_too_large() -> None:
    cache = PixelCache(max_bytes=299)
    image = cache.get(1, _image(1))
    with pytest.raises(ValueError, match="read-only"):
        image[0] = 0
    assert cache.nbytes == 0 and cache.get(1, _image(2))[0, 0, 0] == 2


def test_the_cache_keeps_nothing_of_a_failure() -> None:
    cache = PixelCache(max_bytes=1000)
    with pytest.raises(ZeroDivisionError):
        cache.get(1, lambda: _image(1 // 0)())
    assert cache.get(1, _image(7))[0, 0, 0] == 7


def test_threads_share_the_cache() -> None:
    cache, wrong = PixelCache(max_bytes=5 * 300), []

    def work(seed: int) -> None:
        for key in np.random.default_rng(seed).integers(0, 20, 400).tolist():
            if not (cache.get(key, _image(key)) == key).all():
                wrong.append(key)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and cache.nbytes == 5 * 300
