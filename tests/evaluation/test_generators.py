"""The trivial generators."""

from __future__ import annotations

import torch

from pyeqgan.evaluation.generators import copy_reference, pixel_mean


def source(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_copies_are_references_and_all_come_up(seed: int) -> None:
    references = torch.rand(5, 3, 4, 4)
    copies = copy_reference(references, 200, source(seed))
    which = [[torch.equal(copy, r) for r in references].index(True) for copy in copies]
    assert set(which) == set(range(5))


def test_mean_of_all_references_is_their_mean(seed: int) -> None:
    references = torch.rand(3, 3, 4, 4)
    means = pixel_mean(3)(references, 7, source(seed))
    assert means.shape == (7, 3, 4, 4)
    assert torch.allclose(means, references.mean(0).expand(7, -1, -1, -1))


def test_mean_draws_distinct_references(seed: int) -> None:
    references = (2.0 ** torch.arange(6)).reshape(6, 1, 1, 1).expand(6, 3, 2, 2)  # a sum tells its terms
    sums = (pixel_mean(2)(references, 100, source(seed))[:, 0, 0, 0] * 2).int().tolist()
    assert all(bin(total).count("1") == 2 for total in sums)
    assert len(set(sums)) > 5


def test_the_same_source_gives_the_same_images(seed: int) -> None:
    references = torch.rand(6, 3, 4, 4)
    for generate in (copy_reference, pixel_mean(2)):
        assert torch.equal(generate(references, 9, source(seed)), generate(references, 9, source(seed)))
        assert not torch.equal(generate(references, 9, source(seed)), generate(references, 9, source(seed + 1)))
