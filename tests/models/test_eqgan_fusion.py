import pytest
import torch

from pyeqgan.models import FusionPlan
from pyeqgan.models.eqgan.fusion import Fusion

GRIDS = {2: 2, 4: 8}


def test_a_sampled_plan_is_what_its_docstring_says():
    plan = FusionPlan.sample(GRIDS, 500, 3)
    assert plan.weights.shape == (500, 3)
    assert plan.weights.min() > 0
    torch.testing.assert_close(plan.weights.sum(1), torch.ones(500))
    assert plan.base.unique().tolist() == [0, 1, 2]
    for side, count in GRIDS.items():
        assert plan.positions[side].shape == (500, count)
        assert plan.positions[side].unique().tolist() == list(range(side * side))
        assert all(len(set(row)) == count for row in plan.positions[side].tolist())


def test_one_seed_gives_one_plan():
    first, second, other = (
        FusionPlan.sample(GRIDS, 4, 3, generator=torch.Generator().manual_seed(seed)) for seed in (5, 5, 6)
    )
    assert torch.equal(first.weights, second.weights)
    assert torch.equal(first.base, second.base)
    assert all(torch.equal(first.positions[side], second.positions[side]) for side in GRIDS)
    assert not torch.equal(first.weights, other.weights)


def test_base_first_keeps_every_image_and_leads_with_the_base():
    plan = FusionPlan.sample({}, 6, 4)
    x = torch.arange(24).view(6, 4)
    rotated = plan.base_first(x)
    assert torch.equal(rotated[:, 0], x[torch.arange(6), plan.base])
    assert torch.equal(rotated.sort(1).values, x)


def test_rows_take_a_part_of_everything():
    plan = FusionPlan.sample(GRIDS, 5, 2)
    part = plan.rows(slice(1, 3))
    assert torch.equal(part.weights, plan.weights[1:3])
    assert torch.equal(part.base, plan.base[1:3])
    assert torch.equal(part.positions[4], plan.positions[4][1:3])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p._replace(weights=p.weights[:, :2]), r"weights: expected shape \(5, 3\), got \(5, 2\)"),
        (lambda p: p._replace(base=p.base[:4]), r"base: expected shape \(5,\), got \(4,\)"),
        (lambda p: p._replace(base=p.base + 3), r"base: expected indices in \[0, 3\), got \["),
        (lambda p: p._replace(positions={}), r"positions: expected grids of side \[2, 4\], got \[\]"),
        (
            lambda p: p._replace(positions={2: p.positions[2], 4: p.positions[4][:, 1:]}),
            r"positions\[4\]: expected shape \(5, 8\), got \(5, 7\)",
        ),
    ],
)
def test_a_plan_that_does_not_fit_is_named(change, message):
    plan = FusionPlan.sample(GRIDS, 5, 3)
    plan.check(GRIDS, 5, 3)
    with pytest.raises(ValueError, match=message):
        change(plan).check(GRIDS, 5, 3)


def test_fuse_and_lift_replace_the_planned_positions_by_the_weighted_matches():
    batch, shots, channels, side, s = 2, 3, 5, 4, 2
    plan = FusionPlan.sample({side: 6}, batch, shots)
    maps = torch.randn(batch, shots, channels, side, side, dtype=torch.float64)
    fine = torch.randn(batch, shots, 2, s * side, s * side, dtype=torch.float64)
    fusion = Fusion(plan)
    fused, lifted = fusion.fuse(maps), fusion.lift(fine, side)
    weights = plan.base_first(plan.weights).double()
    for b in range(batch):
        expected, expected_fine = maps[b, 0].clone(), fine[b, 0].clone()
        for i, p in enumerate(plan.positions[side][b].tolist()):
            y, x = divmod(p, side)
            expected[:, y, x] *= weights[b, 0]
            expected_fine[:, s * y : s * y + s, s * x : s * x + s] *= weights[b, 0]
            for r in range(1, shots):
                unit = torch.nn.functional.normalize(maps[b, r].flatten(1), dim=0)
                match = int((maps[b, 0, :, y, x] @ unit).argmax())
                assert fusion.matches[side][b, r - 1, i] == match
                v, u = divmod(match, side)
                expected[:, y, x] += weights[b, r] * maps[b, r, :, v, u]
                patch = fine[b, r, :, s * v : s * v + s, s * u : s * u + s]
                expected_fine[:, s * y : s * y + s, s * x : s * x + s] += weights[b, r] * patch
        torch.testing.assert_close(fused[b], expected)
        torch.testing.assert_close(lifted[b], expected_fine)


def test_a_plan_without_grids_averages_whole_maps():
    plan = FusionPlan.sample({}, 2, 3)
    maps = torch.randn(2, 3, 4, 5, 5)
    mean = (plan.weights[:, :, None, None, None] * maps).sum(1)
    rotated = plan.base_first(maps)
    torch.testing.assert_close(Fusion(plan).fuse(rotated), mean)
    torch.testing.assert_close(Fusion(plan).lift(rotated, 5), mean)


def test_some_rows_of_a_drawn_plan_are_those_of_the_whole():
    whole, part = (
        FusionPlan.sample({4: 3, 8: 9}, 6, 2, generator=torch.Generator().manual_seed(5), rows=rows)
        for rows in (slice(None), slice(2, 4))
    )
    expected = whole.rows(slice(2, 4))
    assert torch.equal(part.weights, expected.weights) and torch.equal(part.base, expected.base)
    assert all(torch.equal(part.positions[side], expected.positions[side]) for side in (4, 8))
