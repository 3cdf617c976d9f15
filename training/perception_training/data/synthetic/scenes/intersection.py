"""Where rays meet the unit shapes: the box, ball, cylinder and square of half extent 1, and height fields over that square.

Rays are given in a primitive's unit coordinates (its own coordinates divided by its size), as origin + t * direction with directions of any
length, so t is the same number in every coordinate system. All functions broadcast and work in float32 and float64. Solids are convex: a ray is
inside them between two values of t, and hits at the first if it starts outside, else at the second.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from perception_training.data.synthetic.scenes.scene import Kind

Vector = tuple[Tensor, Tensor, Tensor]
"""x, y and z as separate tensors: each operation then runs over contiguous memory."""

_SMALLEST_SLOPE = 1e-18
"""Added to what is divided by: it changes nothing but an exact zero, which becomes a slab at huge t instead of NaN."""

_FAR = 1e38

_REFINEMENTS = {torch.float32: 8, torch.float64: 24}
"""Steps of false position after the march; enough for the last bits of the type."""

_SAMPLES_TOGETHER = 30720
"""Samples of a march in one piece on a CPU; why so few is said in `casting`."""


class HeightGrids(NamedTuple):
    """Which height field each ray meets. heights (K, rows, columns) · field, broadcasting with the rays: its index, int64."""

    heights: Tensor
    field: Tensor


def intersect(kind: Kind, origin: Vector, direction: Vector, near: float, grids: HeightGrids) -> Tensor:
    """t of the first hit beyond `near`, more than 1e20 where there is none. Origins and directions broadcast to the result's shape."""
    if kind == Kind.PLANE:
        return _plane(origin, direction, near)
    if kind == Kind.HEIGHT_FIELD:
        return _height_field(origin, direction, near, grids)
    if kind == Kind.BOX:
        enter, leave = _box(origin, direction)
        miss = torch.zeros_like(enter)
    elif kind == Kind.ELLIPSOID:
        enter, leave, miss = _round(origin, direction)
    else:
        enter, leave, miss = _cylinder(origin, direction)
    hit = torch.lerp(enter, leave, _contains(kind, origin).to(enter.dtype))
    return _far_where(miss.add_((enter - leave).clamp_(min=0)).add_((near - hit).clamp_(min=0)), hit)


def _far_where(positive: Tensor, t: Tensor) -> Tensor:
    """t, or more than 1e20 where the other number is positive. Selecting (`torch.where`) takes ten times as long on a CPU."""
    return t.add_(positive.mul_(_FAR).clamp_(max=_FAR))


def _contains(kind: Kind, origin: Vector) -> Tensor:
    """Whether a unit solid holds where the rays start: they then hit it where they leave."""
    if kind == Kind.BOX:
        return (origin[0].abs() < 1) & (origin[1].abs() < 1) & (origin[2].abs() < 1)
    if kind == Kind.ELLIPSOID:
        return _dot(origin, origin) < 1
    return (_dot(origin[:2], origin[:2]) < 1) & (origin[2].abs() < 1)


def _slab(origin: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    """t at which a ray enters and leaves |coordinate| <= 1."""
    slope = (direction + _SMALLEST_SLOPE).reciprocal_()
    first, second = (-1 - origin) * slope, (1 - origin) * slope
    return torch.minimum(first, second), torch.maximum(first, second)


def _box(origin: Vector, direction: Vector) -> tuple[Tensor, Tensor]:
    enter, leave = _slab(origin[0], direction[0])
    for axis in (1, 2):
        first, second = _slab(origin[axis], direction[axis])
        enter, leave = torch.maximum(enter, first, out=first), torch.minimum(leave, second, out=second)
    return enter, leave


def _round(origin: tuple[Tensor, ...], direction: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """t at which a ray enters and leaves the unit ball of as many dimensions as are given, and a number that is positive where it misses.

    The distance to the axis is measured at the foot of the perpendicular, where nothing large cancels.
    """
    per_length = _dot(direction, direction).add_(_SMALLEST_SLOPE).reciprocal_()
    foot = _dot(origin, direction).neg_().mul_(per_length)
    at_foot = tuple(torch.addcmul(start, foot, along) for start, along in zip(origin, direction, strict=True))
    room = 1 - _dot(at_foot, at_foot)
    half = room.clamp(min=0).mul_(per_length).sqrt_()
    return foot - half, foot + half, room.neg_().clamp_(min=0)


def _dot(first: tuple[Tensor, ...], second: tuple[Tensor, ...]) -> Tensor:
    total = first[0] * second[0]
    for one, other in zip(first[1:], second[1:], strict=True):
        total = torch.addcmul(total, one, other)
    return total


def _cylinder(origin: Vector, direction: Vector) -> tuple[Tensor, Tensor, Tensor]:
    enter, leave, miss = _round(origin[:2], direction[:2])
    first, second = _slab(origin[2], direction[2])
    return torch.maximum(enter, first), torch.minimum(leave, second), miss


def _plane(origin: Vector, direction: Vector, near: float) -> Tensor:
    t = -origin[2] / (direction[2] + _SMALLEST_SLOPE)
    outside = torch.addcmul(origin[0], t, direction[0]).abs_().sub_(1).clamp_(min=0)
    outside.add_(torch.addcmul(origin[1], t, direction[1]).abs_().sub_(1).clamp_(min=0))
    return _far_where(outside.add_((near - t).clamp_(min=0)), t)


def height_at(grids: HeightGrids, x: Tensor, y: Tensor) -> Tensor:
    """Bilinear height at unit coordinates, clamped to the grid."""
    corners, right, down = _cell(grids, x, y)
    upper = torch.lerp(corners[0], corners[1], right)
    return torch.lerp(upper, torch.lerp(corners[2], corners[3], right), down)


def height_slopes(grids: HeightGrids, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Slopes of the height along x and y in unit coordinates, within the cell that holds the point."""
    corners, right, down = _cell(grids, x, y)
    rows, columns = grids.heights.shape[1:]
    along_x = torch.lerp(corners[1] - corners[0], corners[3] - corners[2], down) * ((columns - 1) / 2)
    along_y = torch.lerp(corners[2] - corners[0], corners[3] - corners[1], right) * ((rows - 1) / 2)
    return along_x, along_y


def _cell(grids: HeightGrids, x: Tensor, y: Tensor) -> tuple[tuple[Tensor, ...], Tensor, Tensor]:
    """The four corner heights of the cell (left, right, then the row below) and the place within it in [0, 1]."""
    rows, columns = grids.heights.shape[1:]
    column = ((x + 1).mul_((columns - 1) / 2)).nan_to_num_(0).clamp_(0, columns - 1)
    row = ((y + 1).mul_((rows - 1) / 2)).nan_to_num_(0).clamp_(0, rows - 1)
    left, top = column.floor().clamp_(max=columns - 2), row.floor().clamp_(max=rows - 2)
    first = torch.add(left, top, alpha=columns).int() + (grids.field * (rows * columns)).int()
    flat = grids.heights.to(x.dtype).flatten()
    # index_select takes a quarter of the time of flat[index] on a CPU.
    corners = tuple(flat[step:].index_select(0, first.flatten()).view(first.shape) for step in (0, 1, columns, columns + 1))
    return corners, column.sub_(left), row.sub_(top)


def _height_field(origin: Vector, direction: Vector, near: float, grids: HeightGrids) -> Tensor:
    """March in equal steps through the box that holds the field until the ray changes side, then refine.

    As many steps as the grid has rows and columns, so that none is longer than a cell: only a ray that pierces a bump within one step misses it.
    """
    enter, leave = _box(origin, direction)
    enter = enter.clamp(min=near)
    crosses = leave > enter
    shape = crosses.shape
    rays = [part.expand(shape).flatten() for part in (*origin, *direction, enter, leave, grids.field)]
    meet = cross_some if crosses.device.type == "cpu" else cross_all
    return meet(rays, grids.heights, crosses.flatten()).view(shape)


def cross_all(rays: list[Tensor], heights: Tensor, crosses: Tensor) -> Tensor:
    """For a GPU, which would have to wait for the answer which rays need it: everything for all rays. Arguments as for `_march`, crosses (N,)."""
    changes, bracket = _march(rays, heights)
    return torch.where(crosses & changes, _refined(rays, heights, bracket), _FAR)


def cross_some(rays: list[Tensor], heights: Tensor, crosses: Tensor) -> Tensor:
    """The same for a CPU: only rays that meet the box are marched, in pieces that stay in cache, and only those that change side are refined."""
    chosen = crosses.nonzero()[:, 0]
    rays = [part.index_select(0, chosen) for part in rays]
    together = max(1, _SAMPLES_TOGETHER // (sum(heights.shape[1:]) + 1))
    marched = [_march(list(piece), heights) for piece in zip(*(part.split(together) for part in rays), strict=True)]
    kept = torch.cat([changes for changes, _ in marched]).nonzero()[:, 0]
    bracket = [torch.cat(ends).index_select(0, kept) for ends in zip(*(ends for _, ends in marched), strict=True)]
    refined = _refined([part.index_select(0, kept) for part in rays], heights, bracket)
    return torch.full(crosses.shape, _FAR, dtype=refined.dtype).index_copy_(0, chosen.index_select(0, kept), refined)


def _march(rays: list[Tensor], heights: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Whether rays change side, and where first: t before and after, and the heights above the field there, arbitrary for those that do not.

    rays: origin, direction, where to begin, where to end and field, each (N,).
    """
    steps = sum(heights.shape[1:])
    share = torch.linspace(0, 1, steps + 1, dtype=rays[6].dtype, device=rays[6].device)[:, None]
    t = torch.lerp(rays[6], rays[7], share)
    side = _height_above(rays, heights, t)
    changes = (side[1:] >= 0) != (side[:-1] >= 0)
    order = torch.arange(steps, 0, -1, device=t.device)[:, None].to(t.dtype)
    to_last = (changes * order).amax(0)  # argmax takes ten times as long on a CPU
    first = (steps - to_last.clamp(min=1)).long()[None]
    return to_last > 0, [part.gather(0, first + after)[0] for part in (t, side) for after in (0, 1)]


def _height_above(rays: list[Tensor], heights: Tensor, t: Tensor) -> Tensor:
    """How far the rays lie above their field at t (..., N)."""
    x, y, z = (torch.addcmul(rays[axis], t, rays[3 + axis]) for axis in range(3))
    return z.sub_(height_at(HeightGrids(heights, rays[8]), x, y))


def _refined(rays: list[Tensor], heights: Tensor, bracket: list[Tensor]) -> Tensor:
    """Root between two values of t, given with the heights there: false position after Illinois, which halves the end that stays."""
    low, high, at_low, at_high = bracket
    for _ in range(_REFINEMENTS[low.dtype]):
        middle = (high - at_high * (high - low) / (at_high - at_low)).nan_to_num_(0)
        middle = torch.where((middle - low) * (middle - high) <= 0, middle, (low + high) / 2)
        at_middle = _height_above(rays, heights, middle)
        other_side = (at_middle >= 0) != (at_high >= 0)
        low, at_low = torch.where(other_side, high, low), torch.where(other_side, at_high, at_low / 2)
        high, at_high = middle, at_middle
    return high
