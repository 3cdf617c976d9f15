"""Cameras on smooth paths: orbits, walks and turns on the spot, held by a shaking hand; never inside a thing, always with the scene in view."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from perception.geometry import se3, so3
from perception_training.data.synthetic.scenes.motions import Floats, Wave, random_wave


class CameraPath(Protocol):
    """The pose of a camera as a function of time."""

    def at(self, times_s: Floats) -> Floats:
        """world_from_camera (T, 4, 4)."""


def looking(position: Floats, target: Floats, roll: Floats) -> Floats:
    """world_from_camera (T, 4, 4) of cameras at (T, 3) that look at targets (T, 3), turned about their axis by roll (T,); z is up."""
    forward = target - position
    forward = forward / np.linalg.norm(forward, axis=-1, keepdims=True)
    right = np.cross(forward, np.array([0.0, 0.0, 1.0]))
    right /= np.linalg.norm(right, axis=-1, keepdims=True)
    down = np.cross(forward, right)
    rotation = np.stack([right, down, forward], -1)
    turn = np.zeros_like(position)
    turn[:, 2] = roll
    return se3.from_rotation_translation(rotation @ so3.exp(turn), position)


@dataclass(frozen=True, eq=False)
class Orbit:
    """Around `target` (3,): azimuth, elevation (radians) and distance (metres) as waves."""

    target: Floats
    azimuth: Wave
    elevation: Wave
    distance: Wave
    roll: Wave

    def at(self, times_s: Floats) -> Floats:
        azimuth, elevation, distance = (wave.at(times_s) for wave in (self.azimuth, self.elevation, self.distance))
        direction = np.stack([np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)], -1)
        return looking(self.target + distance[:, None] * direction, np.broadcast_to(self.target, direction.shape), self.roll.at(times_s))


@dataclass(frozen=True, eq=False)
class Walk:
    """Along a line from `start` (3,) by `velocity` (3,) m/s with a bob in height, while the gaze moves from `target` (3,) by `gaze_velocity`."""

    start: Floats
    velocity: Floats
    bob: Wave
    target: Floats
    gaze_velocity: Floats
    roll: Wave

    def at(self, times_s: Floats) -> Floats:
        position = self.start + times_s[:, None] * self.velocity
        position[:, 2] += self.bob.at(times_s)
        return looking(position, self.target + times_s[:, None] * self.gaze_velocity, self.roll.at(times_s))


@dataclass(frozen=True, eq=False)
class Shaken:
    """A path with the tremor of a hand: sums of sines of 1 to 7 Hz. shift (K, 3) metres, turn (K, 3) radians, frequency_hz (K,), phase (K, 6)."""

    path: CameraPath
    shift: Floats
    turn: Floats
    frequency_hz: Floats
    phase: Floats

    def at(self, times_s: Floats) -> Floats:
        angle = 2 * np.pi * times_s[:, None, None] * self.frequency_hz[:, None] + self.phase
        sines = np.sin(angle) * np.concatenate([self.shift, self.turn], -1)
        return self.path.at(times_s) @ se3.exp(sines.sum(1))


@dataclass(frozen=True)
class PathSettings:
    """What a random path is drawn from: travel as a share of the viewing distance, largest roll, shares of kinds; see `ScenesConfig`."""

    travel: tuple[float, float]
    max_roll: float
    share_still: float
    share_shaken: float
    duration_s: float


def random_path(
    rng: np.random.Generator, target: Floats, distance_m: tuple[float, float], elevation: tuple[float, float], settings: PathSettings
) -> tuple[str, CameraPath]:
    """A name for the description and a path that starts at a random place from which `target` (3,) is `distance_m` away."""
    duration, distance = settings.duration_s, float(rng.uniform(*distance_m))
    azimuth, height = float(rng.uniform(0, 2 * np.pi)), float(rng.uniform(*elevation))
    travel = float(np.exp(rng.uniform(*np.log(settings.travel))))
    roll = Wave(float(rng.uniform(-1, 1)) * settings.max_roll, slope=float(rng.normal()) * 0.3 * settings.max_roll / duration)
    kind = rng.random()
    path: CameraPath
    if kind < settings.share_still:
        name, path = "a camera that stands still", Orbit(target, Wave(azimuth), Wave(height), Wave(distance), Wave(roll.mean))
    elif kind < settings.share_still + 0.5 * (1 - settings.share_still):
        rate = travel / max(np.cos(height), 0.3) / duration * rng.choice([-1, 1])
        name = "an orbiting camera"
        nod, dolly = random_wave(rng, height, 0.2 * travel, duration), random_wave(rng, distance, 0.25 * travel * distance, duration)
        path = Orbit(target, Wave(azimuth, slope=float(rate)), nod, dolly, roll)
    else:
        name, path = "a walking camera", _walk(rng, target, (distance, azimuth, height), travel * distance, roll, duration)
    if rng.random() < settings.share_shaken:
        name, path = f"{name} in a shaking hand", shaken(rng, path, distance)
    return name, path


def _walk(rng: np.random.Generator, target: Floats, spherical: tuple[float, float, float], travel_m: float, roll: Wave, duration_s: float) -> Walk:
    distance, azimuth, height = spherical
    offset = distance * np.array([np.cos(height) * np.cos(azimuth), np.cos(height) * np.sin(azimuth), np.sin(height)])
    heading = rng.normal(size=3) * np.array([1.0, 1.0, 0.35])
    velocity = heading / np.linalg.norm(heading) * travel_m / duration_s
    gaze = rng.normal(size=3) * 0.12 * distance / duration_s
    bob = Wave(0.0, 0.008 * distance * float(rng.random()), float(rng.uniform(1.5, 2.2)), float(rng.uniform(0, 6)))
    return Walk(target + offset, velocity, bob, target, gaze, roll)


def shaken(rng: np.random.Generator, path: CameraPath, distance_m: float) -> Shaken:
    """The path in a hand that trembles by up to about 0.7 % of the viewing distance and one degree."""
    frequency = rng.uniform(1.0, 7.0, 5)
    strength = rng.uniform(0.2, 1.0) / frequency[:, None]
    shift = rng.normal(size=(5, 3)) * strength * 0.005 * distance_m
    turn = rng.normal(size=(5, 3)) * strength * 0.012
    return Shaken(path, shift, turn, frequency, rng.uniform(0, 2 * np.pi, (5, 6)))
