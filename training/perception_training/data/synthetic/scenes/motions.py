"""Where a rigid body is at any time: closed-form smooth functions, so that exposures between two frames can be evaluated as well.

A motion gives world_from_body (T, 4, 4) float64 at times (T,) in seconds. Gravity points along -z.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from perception.geometry import se3, so3

Floats = NDArray[np.float64]
GRAVITY_M_S2 = 9.81


class Motion(Protocol):
    """The pose of a body as a function of time."""

    def at(self, times_s: Floats) -> Floats:
        """world_from_body (T, 4, 4)."""


@dataclass(frozen=True)
class Wave:
    """mean + slope t + amplitude sin(2 pi frequency t + phase): smooth and defined for all times."""

    mean: float = 0.0
    amplitude: float = 0.0
    frequency_hz: float = 0.0
    phase: float = 0.0
    slope: float = 0.0

    def at(self, times_s: Floats) -> Floats:
        return self.mean + self.slope * times_s + self.amplitude * np.sin(2 * np.pi * self.frequency_hz * times_s + self.phase)


def random_wave(rng: np.random.Generator, mean: float, amplitude: float, duration_s: float) -> Wave:
    """A swing of this amplitude of which a clip of `duration_s` shows 0.2 to 0.8 of a period."""
    return Wave(mean, amplitude, float(rng.uniform(0.2, 0.8)) / duration_s, float(rng.uniform(0, 2 * np.pi)))


@dataclass(frozen=True, eq=False)
class Still:
    """A body that stays at `world_from_body` (4, 4)."""

    world_from_body: Floats

    def at(self, times_s: Floats) -> Floats:
        return np.broadcast_to(self.world_from_body, (len(times_s), 4, 4))


@dataclass(frozen=True, eq=False)
class Gliding:
    """Translation along a smooth closed curve around `centre` (3,) while turning by `turn` radians about the unit vector `axis` (3,), first
    turned by `rest` (3, 3). `path`: one wave for each coordinate, in metres."""

    centre: Floats
    path: tuple[Wave, Wave, Wave]
    rest: Floats
    axis: Floats
    turn: Wave

    def at(self, times_s: Floats) -> Floats:
        rotation = so3.exp(self.turn.at(times_s)[:, None] * self.axis) @ self.rest
        translation = self.centre + np.stack([wave.at(times_s) for wave in self.path], -1)
        return se3.from_rotation_translation(rotation, translation)


@dataclass(frozen=True, eq=False)
class Rolling:
    """A ball, or a cylinder that lies across `direction`, rolls without slip over a horizontal floor.

    start (3,) centre at travel 0 · direction (3,) horizontal unit vector · travel in metres along it · rest (3, 3) orientation at travel 0.
    """

    start: Floats
    direction: Floats
    travel: Wave
    radius_m: float
    rest: Floats

    def at(self, times_s: Floats) -> Floats:
        travel = self.travel.at(times_s)[:, None]
        axis = np.array([-self.direction[1], self.direction[0], 0.0])
        return se3.from_rotation_translation(so3.exp(travel / self.radius_m * axis) @ self.rest, self.start + travel * self.direction)


@dataclass(frozen=True, eq=False)
class Bouncing:
    """Falls from `drop_m` above `rest` (4, 4) and bounces with `restitution`; turns about the vertical by `turn`. Starts `lead_s` into the fall."""

    rest: Floats
    drop_m: float
    restitution: float
    lead_s: float
    turn: Wave

    def at(self, times_s: Floats) -> Floats:
        pose = np.tile(self.rest, (len(times_s), 1, 1))
        pose[:, 2, 3] += self.height(times_s + self.lead_s)
        spin = so3.exp(self.turn.at(times_s)[:, None] * np.array([0.0, 0.0, 1.0]))
        pose[:, :3, :3] = spin @ self.rest[:3, :3]
        return pose

    def height(self, seconds: Floats) -> Floats:
        """(T,) metres above rest, `seconds` after the release; before it the body hangs still."""
        speed = np.sqrt(2 * GRAVITY_M_S2 * self.drop_m)
        height = np.where(seconds < speed / GRAVITY_M_S2, self.drop_m - 0.5 * GRAVITY_M_S2 * np.maximum(seconds, 0) ** 2, 0.0)
        start = speed / GRAVITY_M_S2
        while speed > 0.05:
            speed *= self.restitution
            since = seconds - start
            inside = (since >= 0) & (since < 2 * speed / GRAVITY_M_S2)
            height = np.where(inside, speed * since - 0.5 * GRAVITY_M_S2 * since**2, height)
            start += 2 * speed / GRAVITY_M_S2
        return np.maximum(height, 0.0)


@dataclass(frozen=True, eq=False)
class Hinged:
    """A part that turns about the z axis of a joint of its parent; its own frame is the joint's, turned. parent_from_joint (4, 4)."""

    parent: Motion
    parent_from_joint: Floats
    angle: Wave

    def at(self, times_s: Floats) -> Floats:
        return self.parent.at(times_s) @ self.parent_from_joint @ turned(self.angle.at(times_s))


@dataclass(frozen=True, eq=False)
class Sliding:
    """A part that moves along the z axis of a joint of its parent (a drawer, a lift). parent_from_joint (4, 4)."""

    parent: Motion
    parent_from_joint: Floats
    travel: Wave

    def at(self, times_s: Floats) -> Floats:
        shift = np.tile(np.eye(4), (len(times_s), 1, 1))
        shift[:, 2, 3] = self.travel.at(times_s)
        return self.parent.at(times_s) @ self.parent_from_joint @ shift


def turned(angle: Floats) -> Floats:
    """(T, 4, 4) rotations about z by angle (T,) radians."""
    pose = np.zeros((*np.shape(angle), 4, 4))
    pose[..., 0, 0] = pose[..., 1, 1] = np.cos(angle)
    pose[..., 1, 0] = np.sin(angle)
    pose[..., 0, 1] = -pose[..., 1, 0]
    pose[..., 2, 2] = pose[..., 3, 3] = 1.0
    return pose


def placed(position: Sequence[float] | Floats, yaw: float = 0.0) -> Floats:
    """World or parent from a frame at `position` (3,), turned by `yaw` about the vertical."""
    pose = turned(np.asarray(yaw))
    pose[:3, 3] = position
    return pose


def random_rotation(rng: np.random.Generator) -> Floats:
    """(3, 3) uniform over all rotations."""
    quaternion = rng.normal(size=4)
    return np.asarray(so3.from_quaternion_xyzw(quaternion / np.linalg.norm(quaternion)), np.float64)


def random_axis(rng: np.random.Generator) -> Floats:
    """(3,) unit vector, uniform over the sphere."""
    axis = rng.normal(size=3)
    return axis / np.linalg.norm(axis)
