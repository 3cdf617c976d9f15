"""Rays meet the shapes of procedural scenes where analytic geometry says."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from perception_training.data.synthetic.scenes import intersection
from perception_training.data.synthetic.scenes.intersection import HeightGrids, height_at, height_slopes, intersect
from perception_training.data.synthetic.scenes.scene import Kind

NO_GRIDS = HeightGrids(torch.zeros(0, 2, 2), torch.zeros(1, 1, dtype=torch.int64))
SOLIDS = (Kind.BOX, Kind.ELLIPSOID, Kind.CYLINDER)
MISS = 1e20


def rays(count: int, distance: float, dtype: torch.dtype = torch.float64, seed: int = 0) -> tuple[tuple, tuple]:
    """Origins (1, 1) x 3 at a distance from the unit shapes, directions (1, count) x 3 that point at and beside them."""
    random = torch.Generator().manual_seed(seed)
    origin = torch.nn.functional.normalize(torch.randn(3, generator=random, dtype=torch.float64), dim=0) * distance
    target = 1.5 * torch.randn(count, 3, generator=random, dtype=torch.float64)
    along = target - origin
    return tuple(part.view(1, 1).to(dtype) for part in origin), tuple(part[None].to(dtype) for part in along.unbind(1))


def points(origin: tuple, along: tuple, t: Tensor) -> Tensor:
    return torch.stack([start + t * step for start, step in zip(origin, along, strict=True)], -1)


def outside(kind: Kind, point: Tensor) -> Tensor:
    """How far points lie outside a unit shape: negative inside, 0 on the surface."""
    x, y, z = point.unbind(-1)
    if kind == Kind.BOX:
        return point.abs().amax(-1) - 1
    if kind == Kind.ELLIPSOID:
        return point.norm(dim=-1) - 1
    return torch.maximum(torch.hypot(x, y), z.abs()) - 1


@pytest.mark.parametrize("kind", SOLIDS)
@pytest.mark.parametrize("distance", [6.0, 0.2])
def test_a_hit_lies_on_the_surface_and_nothing_lies_before_it(kind, distance):
    origin, along = rays(4000, distance)
    t = intersect(kind, origin, along, 1e-3, NO_GRIDS)
    hit = t < MISS
    assert (0.1 < hit.double().mean() < 0.9) if distance > 1 else hit.all()
    assert outside(kind, points(origin, along, t)[hit]).abs().max() < 1e-12
    for share in torch.linspace(0.02, 0.98, 49):
        inside = outside(kind, points(origin, along, t * share)[hit]) < 0
        assert inside.all() if distance < 1 else not inside.any()


@pytest.mark.parametrize("kind", SOLIDS)
def test_a_ray_that_hits_nothing_stays_outside(kind):
    origin, along = rays(4000, 6.0)
    missed = intersect(kind, origin, along, 1e-3, NO_GRIDS) > MISS
    for t in torch.linspace(0, 3, 301, dtype=torch.float64):
        assert (outside(kind, points(origin, along, t))[missed] > -1e-9).all()


@pytest.mark.parametrize("kind", [*SOLIDS, Kind.PLANE])
def test_single_precision_finds_the_hits_of_double_precision(kind):
    origin, along = rays(20000, 6.0, torch.float32)
    single = intersect(kind, origin, along, 1e-3, NO_GRIDS)
    exact = intersect(kind, tuple(part.double() for part in origin), tuple(part.double() for part in along), 1e-3, NO_GRIDS)
    both = (single < MISS) & (exact < MISS)
    assert ((single < MISS) != (exact < MISS)).double().mean() < 1e-3
    error = (single.double() - exact)[both].abs() / exact[both]
    assert error.median() < 2e-7
    assert error.quantile(0.99) < 5e-6


def test_a_plane_ends_at_its_edges_and_an_infinite_one_does_not():
    along = (torch.tensor([[0.5, 1.5, 0.0]]), torch.tensor([[0.0, 0.0, -1.2]]), torch.tensor([[-1.0, -1.0, -1.0]]))
    origin = (torch.zeros(1, 1), torch.zeros(1, 1), torch.full((1, 1), 2.0))
    halved = tuple(part / 2 for part in along[:2])
    assert (intersect(Kind.PLANE, origin, (*halved, along[2]), 1e-3, NO_GRIDS) < MISS).tolist() == [[True, False, False]]
    flat = (torch.zeros(1, 3), torch.zeros(1, 3), along[2])
    assert intersect(Kind.PLANE, origin, flat, 1e-3, NO_GRIDS).tolist() == [[2.0, 2.0, 2.0]]
    away = (*flat[:2], torch.tensor([[0.0, 1.0, 1e-30]]))
    assert (intersect(Kind.PLANE, origin, away, 1e-3, NO_GRIDS) > MISS).all()


@pytest.mark.parametrize("kind", SOLIDS)
def test_rays_along_an_axis_hit_the_near_pole_and_padding_hits_nothing(kind):
    zero = torch.zeros(1, 1)
    for axis in range(3):
        origin, along = [zero, zero, zero], [zero, zero, zero]
        origin[axis], along[axis] = zero - 4, zero + 1
        assert intersect(kind, tuple(origin), tuple(along), 1e-3, NO_GRIDS).item() == 3
        along[axis] = zero - 1
        assert intersect(kind, tuple(origin), tuple(along), 1e-3, NO_GRIDS).item() > MISS
    still, aside = (zero, zero, zero), (zero + 2, zero + 2, zero + 2)
    assert intersect(kind, aside, still, 1e-3, NO_GRIDS).item() > MISS


def hills(rows: int = 12, columns: int = 15) -> HeightGrids:
    random = torch.Generator().manual_seed(3)
    coarse = torch.rand(2, 1, 4, 5, generator=random) * 2 - 1
    return HeightGrids(
        torch.nn.functional.interpolate(coarse, (rows, columns), mode="bicubic")[:, 0].clamp(-1, 1), torch.ones(1, 1, dtype=torch.int64)
    )


def test_heights_are_those_of_the_grid_at_its_nodes_and_their_mean_between():
    grids = hills()
    field = grids.heights[1].double()
    rows, columns = field.shape
    x, y = torch.meshgrid(torch.linspace(-1, 1, columns, dtype=torch.float64), torch.linspace(-1, 1, rows, dtype=torch.float64), indexing="xy")
    torch.testing.assert_close(height_at(grids, x, y), field, atol=1e-12, rtol=0)
    middle = (x[:-1, :-1] + x[1:, 1:]) / 2, (y[:-1, :-1] + y[1:, 1:]) / 2
    means = (field[:-1, :-1] + field[1:, :-1] + field[:-1, 1:] + field[1:, 1:]) / 4
    torch.testing.assert_close(height_at(grids, *middle), means, atol=1e-12, rtol=0)
    step = 1e-6
    along_x, along_y = height_slopes(grids, *middle)
    torch.testing.assert_close(along_x, (height_at(grids, middle[0] + step, middle[1]) - means) / step, atol=1e-6, rtol=0)
    torch.testing.assert_close(along_y, (height_at(grids, middle[0], middle[1] + step) - means) / step, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 5e-6)])
def test_a_hit_of_a_height_field_lies_on_its_bilinear_surface_with_none_before(dtype, tolerance):
    grids = hills()
    origin, along = rays(3000, 4.0, dtype, seed=5)
    t = intersect(Kind.HEIGHT_FIELD, origin, along, 1e-3, grids)
    hit = t < MISS
    assert 0.1 < hit.double().mean() < 0.9
    found = points(origin, along, t)[hit]
    assert (found[:, 2] - height_at(grids, found[:, 0], found[:, 1])[0]).abs().max() < tolerance
    assert found[:, :2].abs().max() <= 1 + tolerance
    passed, before, was_within = torch.zeros(len(found)), None, None
    for share in torch.linspace(0.5, 0.995, 200, dtype=dtype):
        point = points(origin, along, t * share)[hit]
        above, within = point[:, 2] > height_at(grids, point[:, 0], point[:, 1])[0], point.abs().amax(1) < 1
        if before is not None:
            passed[within & was_within & (above != before)] = 1
        before, was_within = above, within
    assert passed.mean() < 0.01, "only grazing rays may pass through a bump within one step"


def test_height_fields_are_met_alike_with_and_without_choosing_rays(monkeypatch):
    grids = hills()
    origin, along = rays(2000, 4.0, torch.float32, seed=7)
    chosen = intersect(Kind.HEIGHT_FIELD, origin, along, 1e-3, grids)
    monkeypatch.setattr(intersection, "cross_some", intersection.cross_all)
    every = intersect(Kind.HEIGHT_FIELD, origin, along, 1e-3, grids)
    assert torch.equal(chosen < MISS, every < MISS)
    torch.testing.assert_close(chosen, every, atol=1e-6, rtol=1e-6)
