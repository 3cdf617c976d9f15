"""Rigid bodies made of primitives, before they become tensors, and the stage that keeps them apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from perception_training.data.synthetic.scenes.motions import Floats, Motion, Still, placed
from perception_training.data.synthetic.scenes.scene import Kind

TOUCH_M = 1e-4
"""Bodies that stand on each other are this far apart, so that no two surfaces coincide."""


@dataclass(frozen=True, eq=False)
class Part:
    """One primitive of a body. body_from_part (4, 4) · size as in `scene.SceneBatch` · parts of equal `material` in a body look alike ·
    height (index into the layout's height fields)."""

    kind: Kind
    size: tuple[float, float, float]
    body_from_part: Floats = field(default_factory=lambda: np.eye(4))
    material: int = 0
    height: int = 0


@dataclass(frozen=True, eq=False)
class Body:
    """Parts that move as one. `is_fixture`: floor, walls, ground, which cast no shadow."""

    name: str
    parts: tuple[Part, ...]
    motion: Motion
    is_fixture: bool = False

    def is_dynamic(self, times_s: Floats) -> bool:
        """Whether it is at another place at any of these times (a closed drawer could move, but does not)."""
        if isinstance(self.motion, Still):
            return False
        poses = self.motion.at(times_s)
        return bool(np.abs(poses - poses[:1]).max() > 1e-7)


def still(name: str, parts: Sequence[Part], world_from_body: Floats) -> Body:
    """A body that does not move."""
    return Body(name, tuple(parts), Still(world_from_body))


def block(size: Sequence[float] | Floats, centre: Sequence[float] | Floats, material: int = 0, kind: Kind = Kind.BOX) -> Part:
    """An upright primitive with these half extents at `centre` of its body."""
    return Part(kind, (float(size[0]), float(size[1]), float(size[2])), placed(np.asarray(centre, np.float64)), material)


def half_extents(kind: Kind, size: Floats, rotation: Floats) -> Floats:
    """(..., 3) half extents along the world's axes of a primitive turned by `rotation` (..., 3, 3)."""
    scaled = np.abs(rotation * size)
    if kind == Kind.ELLIPSOID:
        return np.linalg.norm(scaled, axis=-1)
    if kind == Kind.CYLINDER:
        return np.linalg.norm(scaled[..., :2], axis=-1) + scaled[..., 2]
    return scaled.sum(-1)


def bounds(bodies: Sequence[Body], times_s: Floats) -> Floats:
    """(2, 3) lower and upper corner of everything that the bodies touch at these times."""
    corners = []
    for body in bodies:
        times = times_s[:1] if isinstance(body.motion, Still) else times_s
        poses = body.motion.at(times)
        for part in body.parts:
            world_from_part = poses @ part.body_from_part
            reach = half_extents(part.kind, np.asarray(part.size), world_from_part[:, :3, :3])
            corners.append(np.stack([(world_from_part[:, :3, 3] - reach).min(0), (world_from_part[:, :3, 3] + reach).max(0)]))
    stacked = np.stack(corners)
    return np.stack([stacked[:, 0].min(0), stacked[:, 1].max(0)])


class Stage:
    """The free space of a layout: bodies are taken only where the box around their whole motion meets no other and stays inside."""

    def __init__(self, lower: Sequence[float] | Floats, upper: Sequence[float] | Floats, times_s: Floats) -> None:
        self.lower, self.upper = np.asarray(lower, np.float64), np.asarray(upper, np.float64)
        self.times_s = times_s
        self.bodies: list[Body] = []
        self.occupied: list[Floats] = []

    def add(self, bodies: Sequence[Body]) -> None:
        """Take bodies without a question (floor, walls, ground); they occupy nothing."""
        self.bodies.extend(bodies)

    def offer(self, bodies: Sequence[Body], margin_m: float = 0.0) -> bool:
        """Take the bodies if they fit, with `margin_m` of air to the sides; they may touch what they stand on."""
        box = bounds(bodies, self.times_s)
        if (box[0] < self.lower - TOUCH_M).any() or (box[1] > self.upper + TOUCH_M).any():
            return False
        grown = box + np.array([[-margin_m, -margin_m, TOUCH_M / 2], [margin_m, margin_m, -TOUCH_M / 2]])
        if any((grown[0] < other[1]).all() and (grown[1] > other[0]).all() for other in self.occupied):
            return False
        self.occupied.append(box)
        self.bodies.extend(bodies)
        return True

    @property
    def num_parts(self) -> int:
        return sum(len(body.parts) for body in self.bodies)


def clearance(points: Floats, kinds: NDArray[np.int64], sizes: Floats, world_from_part: Floats, heights: Floats | None = None) -> Floats:
    """(N,) distance from points (N, 3) to the nearest of P primitives, negative inside a solid or under a height field; a lower bound where exact
    distances are costly. kinds (P,) · sizes (P, 3) · world_from_part (P, 4, 4), or (N, P, 4, 4): each point at its own time · heights (P, rows,
    columns), used for height fields."""
    rotation, origin = world_from_part[..., :3, :3], world_from_part[..., :3, 3]
    if world_from_part.ndim == 3:
        across = (points @ rotation.transpose(1, 0, 2).reshape(3, -1)).reshape(len(points), -1, 3)
        local = across - (origin[:, None] @ rotation)[:, 0]
    else:
        local = ((points[:, None] - origin)[:, :, None] @ rotation)[:, :, 0]
    distance = np.full(local.shape[:2], np.inf)
    for kind in np.unique(kinds):
        chosen = kinds == kind
        if kind == Kind.HEIGHT_FIELD:
            for index in np.flatnonzero(chosen):
                assert heights is not None
                distance[:, index] = _above_ground(local[:, index], sizes[index], heights[index])
        elif kind != Kind.NONE:
            distance[:, chosen] = _distance(Kind(kind), local[:, chosen], sizes[chosen])
    return distance.min(1)


def _distance(kind: Kind, local: Floats, size: Floats) -> Floats:
    if kind == Kind.ELLIPSOID:
        scaled = np.linalg.norm(local / size, axis=-1)
        return (scaled - 1) * size.min(-1)
    if kind == Kind.CYLINDER:
        side = (np.linalg.norm(local[..., :2] / size[:, :2], axis=-1) - 1) * size[:, :2].min(-1)
        outside = np.stack([side, np.abs(local[..., 2]) - size[:, 2]], -1)
    else:
        thick = size if kind == Kind.BOX else size * np.array([1.0, 1.0, 0.0])
        outside = np.abs(local) - thick
    return np.linalg.norm(np.maximum(outside, 0), axis=-1) + np.minimum(outside.max(-1), 0)


def ground_height(x: Floats, y: Floats, size: Floats, grid: Floats) -> Floats:
    """z of a height field at x, y in its own frame; clamped to its edge outside."""
    rows, cols = grid.shape
    col = np.clip((x / size[0] + 1) / 2, 0, 1) * (cols - 1)
    row = np.clip((y / size[1] + 1) / 2, 0, 1) * (rows - 1)
    left, top = np.minimum(col.astype(int), cols - 2), np.minimum(row.astype(int), rows - 2)
    u, v = col - left, row - top
    low = grid[top, left] * (1 - u) + grid[top, left + 1] * u
    high = grid[top + 1, left] * (1 - u) + grid[top + 1, left + 1] * u
    return size[2] * (low * (1 - v) + high * v)


def _above_ground(local: Floats, size: Floats, grid: Floats) -> Floats:
    """Height above the ground, shortened by the steepest slope, so that it is no more than the distance."""
    steps = np.array([2 * size[0] / (grid.shape[1] - 1), 2 * size[1] / (grid.shape[0] - 1)])
    slope = size[2] * np.hypot(np.abs(np.diff(grid, axis=1)).max() / steps[0], np.abs(np.diff(grid, axis=0)).max() / steps[1])
    return (local[:, 2] - ground_height(local[:, 0], local[:, 1], size, grid)) / np.hypot(1.0, slope)
