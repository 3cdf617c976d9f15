"""Which camera path a clip gets: of random ones the first that keeps clear of everything, stays where cameras may be and sees far enough."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perception_training.data.synthetic.scenes.bodies import Body, clearance
from perception_training.data.synthetic.scenes.camera_paths import CameraPath, Orbit, PathSettings, random_path
from perception_training.data.synthetic.scenes.layouts import Layout
from perception_training.data.synthetic.scenes.motions import Floats, Wave

_CANDIDATES = 24
_WANTED = 3
"""Good paths to choose from."""
_MAX_STEPS = 10


@dataclass(frozen=True, eq=False)
class Occupancy:
    """The primitives of a layout at times_s (T,): kinds (P,) · sizes (P, 3) · world_from_part (T, P, 4, 4) · heights: for each primitive."""

    times_s: Floats
    kinds: NDArray[np.int64]
    sizes: Floats
    world_from_part: Floats
    heights: Floats

    @classmethod
    def of(cls, layout: Layout, times_s: Floats) -> Occupancy:
        parts = [part for body in layout.bodies for part in body.parts]
        grids = np.stack(layout.heights) if layout.heights else np.zeros((1, 2, 2))
        return cls(
            times_s,
            np.array([part.kind for part in parts], np.int64),
            np.array([part.size for part in parts], np.float64),
            part_poses(layout.bodies, times_s),
            grids[[part.height for part in parts]],
        )

    def clearance(self, points: Floats) -> Floats:
        """(T,) distance of point t (T, 3) from everything at time t."""
        return clearance(points, self.kinds, self.sizes, self.world_from_part, self.heights)

    def clearance_at(self, points: Floats, time: int) -> Floats:
        """(N,) distance of points (N, 3) from everything at one of the times."""
        return clearance(points, self.kinds, self.sizes, self.world_from_part[time], self.heights)


def part_poses(bodies: tuple[Body, ...], times_s: Floats) -> Floats:
    """world_from_part (T, P, 4, 4) of all parts of all bodies, in their order."""
    poses = []
    for body in bodies:
        world_from_body = body.motion.at(times_s)
        poses.append(world_from_body[:, None] @ np.stack([part.body_from_part for part in body.parts]))
    return np.concatenate(poses, 1)


def choose_path(rng: np.random.Generator, layout: Layout, occupancy: Occupancy, settings: PathSettings, focal: float) -> tuple[str, CameraPath]:
    """A name for the description and a path: of the first few good ones that which sees most. When no moving path is found, the camera stands
    still at an open place."""
    good: list[tuple[float, str, CameraPath]] = []
    for _ in range(_CANDIDATES):
        target = layout.targets[int(rng.integers(len(layout.targets)))]
        name, path = random_path(rng, target, layout.distance_m, layout.elevation, settings)
        if _air(path, layout, occupancy) > 0.12 * layout.distance_m[0] + 0.02 and sees_enough(path, layout, occupancy, focal):
            good.append((_content(path, occupancy, focal), name, path))
            if len(good) == _WANTED:
                break
    if good:
        return max(good, key=lambda found: found[0])[1:]
    return "a camera that stands still", _open_place(rng, layout, occupancy)


def _content(path: CameraPath, occupancy: Occupancy, focal: float) -> float:
    """How many primitives have their centre in the picture at the middle time; what moves counts four times, because it is rare."""
    middle = len(occupancy.times_s) // 2
    pose = path.at(occupancy.times_s[middle : middle + 1])[0]
    local = (occupancy.world_from_part[middle, :, :3, 3] - pose[:3, 3]) @ pose[:3, :3]
    in_view = (local[:, 2] > 0) & (np.abs(local[:, :2]).max(1) * focal < 0.45 * local[:, 2])
    moves = np.abs(occupancy.world_from_part - occupancy.world_from_part[:1]).max((0, 2, 3)) > 1e-6
    return float((in_view * np.where(moves, 4.0, 1.0)).sum())


def _air(path: CameraPath, layout: Layout, occupancy: Occupancy) -> float:
    """Least distance from everything on the way; negative where the path leaves the region of cameras."""
    positions = path.at(occupancy.times_s)[:, :3, 3]
    inside = min(float((positions - layout.camera_lower).min()), float((layout.camera_upper - positions).min()))
    return inside if inside < 0 else float(occupancy.clearance(positions).min())


def sees_enough(path: CameraPath, layout: Layout, occupancy: Occupancy, focal: float) -> bool:
    """Whether, at the start and at the end, most of the picture is neither right before the lens nor sky."""
    x, y = np.meshgrid(np.linspace(-0.4, 0.4, 4) / focal, np.linspace(-0.4, 0.4, 4) / focal)
    rays = np.stack([x.ravel(), y.ravel(), np.ones(x.size)], -1)
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    for time in (0, len(occupancy.times_s) - 1):
        pose = path.at(occupancy.times_s[time : time + 1])[0]
        way = _free_way(pose[:3, 3], rays @ pose[:3, :3].T, occupancy, time, 4 * layout.distance_m[1])
        if np.median(way) < 0.65 * layout.distance_m[0] or (way < 0.4 * layout.distance_m[0]).mean() > 0.2:
            return False
        if layout.is_outdoors and (way >= 3 * layout.distance_m[1]).mean() > 0.45:
            return False
    return True


def _free_way(origin: Floats, directions: Floats, occupancy: Occupancy, time: int, far_m: float) -> Floats:
    """(N,) about how far one can go along each ray before meeting something."""
    way = np.zeros(len(directions))
    for _ in range(_MAX_STEPS):
        way = np.minimum(way + np.maximum(occupancy.clearance_at(origin + way[:, None] * directions, time), 0), far_m)
    return way


def _open_place(rng: np.random.Generator, layout: Layout, occupancy: Occupancy) -> CameraPath:
    """A still camera at an open place, of many the first that sees enough, looking at a random target."""
    places = rng.uniform(layout.camera_lower, layout.camera_upper, (200, 3))
    most_open = np.argsort(-occupancy.clearance_at(places, len(occupancy.times_s) // 2))[:40]
    paths = [_looking_from(places[index], layout.targets[int(rng.integers(len(layout.targets)))]) for index in most_open]
    paths.sort(key=lambda path: -_air(path, layout, occupancy))
    return next((path for path in paths[:20] if sees_enough(path, layout, occupancy, 1.0)), paths[0])


def _looking_from(place: Floats, target: Floats) -> Orbit:
    offset = place - target
    distance = float(np.linalg.norm(offset))
    return Orbit(target, Wave(float(np.arctan2(offset[1], offset[0]))), Wave(float(np.arcsin(offset[2] / distance))), Wave(distance), Wave())
