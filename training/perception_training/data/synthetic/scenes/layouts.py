"""Where things stand: rooms with furniture, table tops with goods, open ground with trees and huts. Metres, z up, floor at z = 0."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from perception.geometry import se3
from perception_training.data.synthetic.scenes import articulated
from perception_training.data.synthetic.scenes.bodies import TOUCH_M, Body, Part, Stage, block, bounds, ground_height, still
from perception_training.data.synthetic.scenes.motions import Floats, Still, placed
from perception_training.data.synthetic.scenes.movers import bouncing, flying, random_mover
from perception_training.data.synthetic.scenes.scene import Kind
from perception_training.data.synthetic.scenes.shapes import FREE_FURNITURE, GOODS, OUTDOOR, WALL_FURNITURE, Shape, table_of

NUM_GRID_POINTS = 33
"""Rows and columns of every height field."""
LIFT = np.array([0.0, 0.0, TOUCH_M])
_ATTEMPTS = 12
"""How often a thing is offered to a stage at another place before it is left out."""


@dataclass(frozen=True, eq=False)
class Layout:
    """Bodies and what a camera and a light need to know about the place.

    heights: grids (33, 33) · targets (N, 3): what is worth looking at · camera_lower, camera_upper (3,): where a camera may be ·
    distance_m: from the camera to what it looks at · elevation: of the camera above it, radians · is_outdoors: lit by the sun.
    """

    name: str
    bodies: tuple[Body, ...]
    targets: Floats
    camera_lower: Floats
    camera_upper: Floats
    distance_m: tuple[float, float]
    elevation: tuple[float, float]
    heights: tuple[Floats, ...] = field(default=())
    is_outdoors: bool = False


@dataclass(frozen=True)
class Amounts:
    """How much a layout holds: num_parts to aim for, num_moving and num_articulated things; motions last `duration_s`."""

    num_parts: int
    num_moving: int
    num_articulated: int
    duration_s: float

    @property
    def times_s(self) -> Floats:
        """Times over which swept bounds are taken: a little longer than the clip, because exposures reach beyond its ends."""
        return np.linspace(-0.05, 1.05, 34) * self.duration_s


def room(rng: np.random.Generator, amounts: Amounts) -> Layout:
    """Six walls with furniture along them and on the floor, things on tables, pictures on the walls."""
    size = np.array([rng.uniform(3.5, 7.0), rng.uniform(3.5, 7.0), rng.uniform(2.4, 3.2)])
    stage = _walls(size, amounts.times_s)
    _articulated_at_walls(rng, stage, amounts)
    for _ in range(amounts.num_moving):
        _offer(rng, stage, lambda: _mover(rng, stage, (0.25, 0.6), (0.15, 0.7), amounts.duration_s))
    limit = _Limit(amounts.num_parts, tries=30)
    while limit.more(stage):
        kind = rng.random()
        if kind < 0.3:
            _offer(rng, stage, lambda: [_against_wall(rng, stage, *_pick(rng, WALL_FURNITURE))])
        elif kind < 0.7:
            _offer(rng, stage, lambda: [_standing(rng, _floor_point(rng, stage, 0.5), *_pick(rng, FREE_FURNITURE))])
        else:
            _offer(rng, stage, lambda: [_picture(rng, stage)])
        _goods_on_tables(rng, stage, stage.bodies[-1])
    margin = np.array([0.3, 0.3, 0.0])
    lower, upper = stage.lower + margin, stage.upper - margin
    lower[2], upper[2] = 0.5, min(2.1, size[2] - 0.3)
    return Layout("room", tuple(stage.bodies), _targets(stage), lower, upper, (1.2, 3.5), (-0.1, 0.6))


def table_top(rng: np.random.Generator, amounts: Amounts) -> Layout:
    """A table full of goods in a room; seen from near by."""
    size = np.array([rng.uniform(3.0, 5.0), rng.uniform(3.0, 5.0), rng.uniform(2.4, 3.0)])
    stage = _walls(size, amounts.times_s)
    half_x, half_y, height = rng.uniform(0.5, 1.0), rng.uniform(0.4, 0.7), rng.uniform(0.6, 0.85)
    table = still("table", table_of(half_x, half_y, height, bool(rng.random() < 0.4)), placed((*rng.uniform(-0.4, 0.4, 2), 0.0)))
    stage.offer([table])
    top = bounds([table], amounts.times_s)
    top[0, 2] = top[1, 2]
    inner = Stage(top[0] + [0.02, 0.02, 0], top[1] - [0.02, 0.02, -1.2], amounts.times_s)
    for _ in range(amounts.num_articulated):
        _offer(rng, inner, lambda: _small_articulated(rng, inner, amounts))
    for _ in range(amounts.num_moving):
        _offer(rng, inner, lambda: _mover(rng, inner, (0.08, 0.22), (0.03, 0.16), amounts.duration_s))
    limit = _Limit(amounts.num_parts - stage.num_parts, tries=40)
    while limit.more(inner):
        _offer(rng, inner, lambda: [_standing(rng, _floor_point(rng, inner, 0.05), GOODS[int(rng.integers(len(GOODS)))], 0.07, 0.24)], 0.01)
    for _ in range(3):
        _offer(rng, stage, lambda: [_against_wall(rng, stage, *_pick(rng, WALL_FURNITURE))])
        _offer(rng, stage, lambda: [_picture(rng, stage)])
    lower, upper = stage.lower + 0.3, stage.upper - 0.3
    lower[2] = height + 0.1
    bodies = (*stage.bodies, *inner.bodies)
    targets = _targets(inner) if inner.bodies else top.mean(0)[None]
    return Layout("table top", bodies, targets, lower, upper, (0.45, 1.2), (0.15, 1.2))


def outdoors(rng: np.random.Generator, amounts: Amounts) -> Layout:
    """Hilly ground with trees, huts, fences, boulders and parked cars under the sky."""
    half = rng.uniform(12, 25)
    size = (half, half, half * rng.uniform(0.03, 0.1))
    grid = _hills(rng)

    def ground(x: float, y: float) -> float:
        return float(ground_height(np.array(x), np.array(y), np.asarray(size), grid))

    soil = Body("ground", (Part(Kind.HEIGHT_FIELD, size),), Still(np.eye(4)), is_fixture=True)
    stage = Stage((-0.45 * half, -0.45 * half, -size[2] - 3), (0.45 * half, 0.45 * half, size[2] + 14), amounts.times_s)
    stage.add([soil])

    def standing_point(reach: float, sink: float = 0.0) -> Floats:
        x, y = rng.normal(0, 0.17 * half, 2).clip(-0.4 * half, 0.4 * half)
        corners = [ground(x + dx, y + dy) for dx in (-reach, 0, reach) for dy in (-reach, 0, reach)]
        return np.array([x, y, min(corners) if sink else max(corners)])

    for _ in range(amounts.num_articulated):
        _offer(rng, stage, lambda: _outdoor_articulated(rng, standing_point(0.6), amounts.duration_s))

    def moving() -> list[Body]:
        scale, reach = rng.uniform(0.6, 1.8), rng.uniform(0.3, 1.6)
        builder = flying if rng.random() < 0.5 else bouncing
        return [builder(rng, standing_point(1.0 if builder is flying else scale / 2), scale, reach, amounts.duration_s)]

    def fixed() -> list[Body]:
        shape, low, high = _pick(rng, OUTDOOR)
        return [_standing(rng, standing_point(0.35 * low, sink=1.0), shape, low, high)]

    for _ in range(amounts.num_moving):
        _offer(rng, stage, moving)
    limit = _Limit(amounts.num_parts, tries=40)
    while limit.more(stage):
        _offer(rng, stage, fixed, 0.3)
    lower, upper = np.array([-0.6 * half, -0.6 * half, -size[2]]), np.array([0.6 * half, 0.6 * half, size[2] + 5.0])
    return Layout("outdoors", tuple(stage.bodies), _targets(stage), lower, upper, (3.0, 9.0), (0.0, 0.6), (grid,), is_outdoors=True)


LAYOUTS: dict[str, Callable[[np.random.Generator, Amounts], Layout]] = {"room": room, "table_top": table_top, "outdoors": outdoors}


class _Limit:
    """Lets a loop go on until the stage holds enough parts or the tries are used up."""

    def __init__(self, num_parts: int, tries: int) -> None:
        self.num_parts, self.tries = num_parts, tries

    def more(self, stage: Stage) -> bool:
        self.tries -= 1
        return self.tries >= 0 and stage.num_parts < self.num_parts


def _offer(rng: np.random.Generator, stage: Stage, make: Callable[[], Sequence[Body]], margin_m: float = 0.03) -> bool:
    """Offer newly made bodies until the stage takes them."""
    return any(stage.offer(make(), margin_m) for _ in range(_ATTEMPTS))


def _walls(size: Floats, times_s: Floats) -> Stage:
    x, y, z = size / 2
    turned = [se3.exp(np.array([0, 0, 0, 0, np.pi / 2, 0])), se3.exp(np.array([0, 0, 0, np.pi / 2, 0, 0]))]
    sheets = [Part(Kind.PLANE, (x, y, 0.0), placed((0, 0, 0)), 0), Part(Kind.PLANE, (x, y, 0.0), placed((0, 0, 2 * z)), 1)]
    for side in (-1, 1):
        across, along = turned[0].copy(), turned[1].copy()
        across[:3, 3], along[:3, 3] = (side * x, 0, z), (0, side * y, z)
        sheets += [Part(Kind.PLANE, (z, y, 0.0), across, 2 + (side > 0)), Part(Kind.PLANE, (x, z, 0.0), along, 4 + (side > 0))]
    stage = Stage((-x, -y, 0), (x, y, 2 * z), times_s)
    stage.add([Body("room", tuple(sheets), Still(np.eye(4)), is_fixture=True)])
    return stage


def _floor_point(rng: np.random.Generator, stage: Stage, edge_m: float) -> Floats:
    edge = np.minimum(edge_m, (stage.upper - stage.lower)[:2] / 2 - 1e-3)
    return np.append(rng.uniform(stage.lower[:2] + edge, stage.upper[:2] - edge), stage.lower[2])


def _pick(rng: np.random.Generator, choices: Sequence[tuple[Shape, float, float]]) -> tuple[Shape, float, float]:
    return choices[int(rng.integers(len(choices)))]


def _mover(rng: np.random.Generator, stage: Stage, scale_m: tuple[float, float], reach_m: tuple[float, float], duration_s: float) -> list[Body]:
    return random_mover(rng, _floor_point(rng, stage, 2 * scale_m[0]), rng.uniform(*scale_m), rng.uniform(*reach_m), duration_s)


def _standing(rng: np.random.Generator, floor: Floats, shape: Shape, low: float, high: float) -> Body:
    pose = placed(floor + LIFT, rng.uniform(0, 2 * np.pi))
    return still(shape.__name__.replace("_", " "), shape(rng, rng.uniform(low, high)), pose)


def _wall_pose(rng: np.random.Generator, stage: Stage, depth_m: float, height_m: float = TOUCH_M) -> Floats:
    """A place whose back (+y) is `depth_m` before a random wall."""
    wall = int(rng.integers(4))
    along_x = wall % 2 == 0
    side = 1 if wall < 2 else -1
    limit = stage.upper[:2] - 0.1
    position = np.append(rng.uniform(-limit, limit), height_m)
    position[1 if along_x else 0] = side * (stage.upper[1 if along_x else 0] - depth_m - TOUCH_M)
    yaw = (0.0 if side > 0 else np.pi) if along_x else (-np.pi / 2 if side > 0 else np.pi / 2)
    return placed(position, yaw)


def _against_wall(rng: np.random.Generator, stage: Stage, shape: Shape, low: float, high: float) -> Body:
    parts = shape(rng, rng.uniform(low, high))
    depth = bounds([still("", parts, np.eye(4))], np.zeros(1))[1, 1]
    return still(shape.__name__.replace("_", " "), parts, _wall_pose(rng, stage, float(depth)))


def _picture(rng: np.random.Generator, stage: Stage) -> Body:
    half = np.array([rng.uniform(0.15, 0.7), 0.01, rng.uniform(0.15, 0.5)])
    return still("picture", [block(half, (0, 0, 0))], _wall_pose(rng, stage, 0.01, rng.uniform(1.1, 1.8)))


def _goods_on_tables(rng: np.random.Generator, stage: Stage, body: Body) -> None:
    """Things on a table that was just placed; what hangs over its edge or meets another is left out."""
    if body.name != "table":
        return
    top = bounds([Body("", body.parts[:1], body.motion)], np.zeros(1))
    yaw_safe = Stage(top[0], np.append(top[1, :2], top[1, 2] + 1.0), stage.times_s)
    yaw_safe.lower[2] = top[1, 2]
    world_from_top = body.motion.at(np.zeros(1))[0] @ body.parts[0].body_from_part
    for _ in range(int(rng.integers(1, 5))):
        spot = rng.uniform(-0.75, 0.75, 2) * np.asarray(body.parts[0].size[:2])
        floor = (world_from_top @ np.array([*spot, body.parts[0].size[2], 1.0]))[:3]
        goods = [_standing(rng, floor, GOODS[int(rng.integers(len(GOODS)))], 0.1, 0.3)]
        if yaw_safe.offer(goods, 0.01):
            stage.bodies.extend(goods)


def _articulated_at_walls(rng: np.random.Generator, stage: Stage, amounts: Amounts) -> None:
    for _ in range(amounts.num_articulated):
        _offer(rng, stage, lambda: _room_articulated(rng, stage, amounts.duration_s))


def _room_articulated(rng: np.random.Generator, stage: Stage, duration_s: float) -> list[Body]:
    kind = rng.choice(["cupboard", "drawers", "gate", "arm", "pendulum"])
    if kind == "arm":
        return articulated.arm(rng, placed(_floor_point(rng, stage, 0.8) + LIFT, rng.uniform(0, 6)), rng.uniform(0.7, 1.3), duration_s)
    if kind == "pendulum":
        hook = _floor_point(rng, stage, 0.8)
        hook[2] = stage.upper[2] - TOUCH_M
        return articulated.pendulum(rng, placed(hook, rng.uniform(0, 6)), rng.uniform(0.5, 1.0), duration_s)
    if kind == "gate":
        half = np.array([rng.uniform(0.35, 0.45), 0.05, rng.uniform(0.85, 1.0)])
        return articulated.gate(rng, _wall_pose(rng, stage, half[1]), half, duration_s)
    half = np.array([rng.uniform(0.3, 0.5), rng.uniform(0.2, 0.3), rng.uniform(0.3, 0.8)])
    builder = articulated.cupboard if kind == "cupboard" else articulated.drawers
    return builder(rng, _wall_pose(rng, stage, half[1] + 0.01), half, duration_s)


def _small_articulated(rng: np.random.Generator, stage: Stage, amounts: Amounts) -> list[Body]:
    base = placed(_floor_point(rng, stage, 0.1) + LIFT, rng.uniform(0, 2 * np.pi))
    kind = rng.random()
    if kind < 0.55:
        return articulated.arm(rng, base, rng.uniform(0.22, 0.45), amounts.duration_s)
    half = np.array([rng.uniform(0.1, 0.2), rng.uniform(0.1, 0.15), rng.uniform(0.1, 0.2)])
    return (articulated.cupboard if kind < 0.8 else articulated.drawers)(rng, base, half, amounts.duration_s)


def _outdoor_articulated(rng: np.random.Generator, floor: Floats, duration_s: float) -> list[Body]:
    base = placed(floor, rng.uniform(0, 2 * np.pi))
    kind = rng.random()
    if kind < 0.45:
        return articulated.rotor(rng, base, rng.uniform(1.5, 3.5), duration_s)
    if kind < 0.75:
        return articulated.arm(rng, base, rng.uniform(1.5, 3.0), duration_s)
    return articulated.gate(rng, base, np.array([rng.uniform(0.5, 0.9), 0.06, rng.uniform(0.7, 1.1)]), duration_s)


def _hills(rng: np.random.Generator) -> Floats:
    """(33, 33) smooth heights in [-1, 1], calmer in the middle."""
    total = np.zeros((NUM_GRID_POINTS,) * 2)
    for cells, weight in ((3, 1.0), (6, 0.4), (14, 0.08)):
        total += weight * cv2.resize(rng.uniform(-1, 1, (cells, cells)), (NUM_GRID_POINTS,) * 2, interpolation=cv2.INTER_CUBIC)
    return np.clip(total / np.abs(total).max(), -1, 1)


def _targets(stage: Stage) -> Floats:
    """(N, 3) centres of the bodies; moving ones three times, so that they are looked at more often."""
    points = [
        bounds([body], stage.times_s).mean(0) for body in stage.bodies if not body.is_fixture for _ in range(1 + body.is_dynamic(stage.times_s))
    ]
    return np.stack(points) if points else np.array([[*(stage.lower + stage.upper)[:2] / 2, 1.0]])
