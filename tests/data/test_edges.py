import sys

import numpy as np
import pytest

from pyeqgan.data.layouts import Thresholds, canny, instance_edges
from pyeqgan.data.layouts.edges import opencv
from pyeqgan.errors import UserError


def _step(levels: int, size: int = 16) -> np.ndarray:
    image = np.full((size, size, 3), 100, np.uint8)
    image[:, size // 2 :] += np.uint8(levels)
    return image


def test_a_square_has_its_outline_and_nothing_else() -> None:
    image = np.zeros((20, 24, 3), np.uint8)
    image[5:15, 6:18] = 255
    edges = canny(image)
    assert edges.shape == (20, 24) and edges.dtype == np.float32 and set(np.unique(edges)) == {-1.0, 1.0}
    found = edges > 0
    near = np.zeros_like(found)
    near[4:16, 5:19] = True
    near[6:14, 7:17] = False  # at most one pixel to either side of the outline
    assert not found[~near].any()
    assert found[4:6, 8:16].any(0).all() and found[14:16, 8:16].any(0).all()
    assert found[7:13, 5:7].any(1).all() and found[7:13, 17:19].any(1).all()


@pytest.mark.parametrize(("levels", "found"), [(24, False), (49, False), (51, True), (120, True)])
def test_the_thresholds_are_four_times_the_levels_of_a_step(levels: int, found: bool) -> None:
    assert (canny(_step(levels)) > 0).any() == found
    assert (canny(_step(levels), Thresholds(4 * levels - 1, 4 * levels - 1)) > 0).any()
    assert not (canny(_step(levels), Thresholds(1, 4 * levels + 1)) > 0).any()


@pytest.mark.parametrize(("levels", "found"), [(24, False), (26, True)])
def test_a_weak_edge_counts_where_it_goes_on_from_a_strong_one(levels: int, found: bool) -> None:
    image = _step(levels)
    assert not (canny(image) > 0).any()
    image[:4, 8:] = 200
    edges = canny(image) > 0
    assert edges[8:, 6:10].any(1).all() == edges[8:].any() == found and not edges[:, :4].any()


def test_colours_are_judged_by_their_grey() -> None:
    """The luma of BT.601: two colours of one luma have no edge, however different."""
    image = np.empty((16, 16, 3), np.uint8)
    image[:, :8], image[:, 8:] = (200, 0, 0), (0, 102, 0)
    assert not (canny(image, Thresholds(8, 8)) > 0).any()
    image[:, 8:] = (0, 0, 200)
    assert not (canny(image, Thresholds(150, 150)) > 0).any() and (canny(image, Thresholds(140, 140)) > 0).any()


def test_any_number_of_images_at_once() -> None:
    images = np.stack([_step(levels) for levels in (0, 60, 90, 0, 200, 30)])
    alone = np.stack([canny(image) for image in images])
    assert np.array_equal(canny(images), alone)
    assert np.array_equal(canny(images.reshape(2, 3, 16, 16, 3)), alone.reshape(2, 3, 16, 16))
    mirrored = images[:, :, ::-1]  # a view that OpenCV cannot take as it is
    assert np.array_equal(canny(mirrored), canny(mirrored.copy()))


@pytest.mark.parametrize("thresholds", [(0, 1), (-1, 2), (3, 2), (float("nan"), 2), (1, float("nan"))])
def test_thresholds_are_checked(thresholds: tuple[float, float]) -> None:
    with pytest.raises(UserError, match=r"Canny thresholds .* expected 0 < low <= high"):
        Thresholds(*thresholds)


def test_without_opencv_one_line_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    opencv.cache_clear()
    try:
        with pytest.raises(UserError, match=r"edges need OpenCV: pip install 'pyeqgan\[ecgan\]'"):
            canny(_step(1))
    finally:
        opencv.cache_clear()


def test_opencv_starts_no_threads_of_its_own() -> None:
    assert opencv().getNumThreads() == 1


def test_instances_have_edges_where_they_touch() -> None:
    instances = np.array([[0, 0, 7, 7], [0, 0, 7, 7], [0, 0, 0, 0], [0, 0, 0, 9]], np.int32)
    expected = [[0, 1, 1, 0], [0, 1, 1, 1], [0, 0, 1, 1], [0, 0, 1, 1]]
    edges = instance_edges(instances)
    assert edges.dtype == np.float32 and edges.tolist() == expected
    assert np.array_equal(instance_edges(np.stack([instances, instances.T])), np.stack([edges, edges.T]))
    assert not instance_edges(np.full((5, 4), 3, np.int32)).any()
