"""What the published scripts do differently."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pyeqgan.data import to_tensor
from pyeqgan.errors import UserError
from pyeqgan.evaluation import Protocol
from pyeqgan.evaluation.generators import copy_reference
from pyeqgan.evaluation.scores import Images, RealFeatures, score
from pyeqgan.evaluation.variants import (
    PROTOCOL,
    VARIANTS,
    Variant,
    reduce_for_lpips,
    resample,
    shuffled,
    with_replacement,
)


def test_a_shuffled_view_holds_every_image_once_in_one_order_for_classes_of_a_size(stripes: Callable) -> None:
    classes = stripes([12, 12, 9])
    view = shuffled(classes, 5)
    assert (view.class_names, view.image_size, len(view), view.count(2)) == (classes.class_names, 32, 3, 9)

    def order(c: int) -> list[int]:
        originals = [classes.image(c, i).tobytes() for i in range(classes.count(c))]
        return [originals.index(view.image(c, i).tobytes()) for i in range(view.count(c))]

    assert sorted(order(0)) == list(range(12)) and order(0) != sorted(order(0))
    assert order(0) == order(1)
    assert sorted(order(2)) == list(range(9))
    assert shuffled(classes, 6).image(0, 0).tobytes() != view.image(0, 0).tobytes() or order(0)[0] == 0


def test_references_may_be_drawn_twice() -> None:
    given = []

    def generate(references: Tensor, count: int, generator: torch.Generator) -> Tensor:
        given.append(references[:, 0, 0, 0].tolist())
        return copy_reference(references, count, generator)

    references = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 3, 2, 2)
    images = with_replacement(generate, 3)(references, 200, torch.Generator().manual_seed(0))
    assert images.shape == (200, 3, 2, 2)
    assert {len(drawn) for drawn in given} == {3}
    assert {x for drawn in given for x in drawn} == {0, 1, 2, 3}
    assert any(len(set(drawn)) < 3 for drawn in given)


def test_reals_are_resampled_within_their_class() -> None:
    features = [torch.full((5, 2), float(c)) + torch.arange(5)[:, None] / 10 for c in range(3)]
    found = resample(features, 128, 1)
    assert [f.shape for f in found] == [(128, 2)] * 3
    for drawn, original in zip(found, features, strict=True):
        assert {*map(tuple, drawn.tolist())} == {*map(tuple, original.tolist())}
    assert all(torch.equal(a, b) for a, b in zip(found, resample(features, 128, 1), strict=True))


def test_resampled_reals_are_what_generated_images_meet() -> None:
    real, images = RealFeatures(), Images()
    for c in range(2):
        real.add(torch.randn(6, 3).double() + c, torch.randn(5, 3).double() + c)
        images.add(torch.randn(7, 3).double() + c, torch.randn(5, 3).double(), 0.1)
    names = ("a", "b")
    own = score("generator", images, real, names, seed=0)
    published = score("generator", images, real, names, seed=0, variant=Variant(resampled=128))
    assert own.estimates["frechet"] != published.estimates["frechet"]
    assert own.by_class["a"]["pairwise"] == published.by_class["a"]["pairwise"]
    for name in ("generator", "real"):
        assert score(name, images, real, names, seed=0, variant=PROTOCOL) == score(name, images, real, names, seed=0)


def test_small_images_are_not_reduced() -> None:
    pixels = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8).numpy()
    assert torch.equal(reduce_for_lpips(pixels, PROTOCOL, 32), to_tensor(pixels))
    published = reduce_for_lpips(pixels, VARIANTS["wavegan"], 32)
    assert torch.allclose(published, 2 * to_tensor(pixels) - 1, atol=1e-6)  # in [−3, 1]


@pytest.mark.parametrize(("features", "lpips"), [("self", "vgg"), ("inception", None), ("inception", "alex")])
def test_a_variant_needs_its_networks(features: str, lpips: str | None) -> None:
    message = f"compat lofgan: expected features inception and lpips vgg, got features {features} and lpips"
    with pytest.raises(UserError, match=message):
        Protocol(3, compat="lofgan", features=features, lpips=lpips)  # type: ignore[arg-type]
    assert Protocol(3, compat="lofgan", features="inception", lpips="vgg").variant == VARIANTS["lofgan"]
