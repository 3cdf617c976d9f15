"""How surfaces look and how they are lit."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from perception_training.data.synthetic.scenes.bodies import Body
from perception_training.data.synthetic.scenes.config import ScenesConfig
from perception_training.data.synthetic.scenes.layouts import Layout
from perception_training.data.synthetic.scenes.motions import Floats, Wave, random_wave
from perception_training.data.synthetic.scenes.scene import Kind
from perception_training.data.synthetic.scenes.texture_stack import TextureStack
from perception_training.data.synthetic.scenes.textures import texture
from perception_training.data.synthetic.scenes.viewpoints import Occupancy

_LINEAR = (np.arange(256, dtype=np.float32) / 255) ** 2.2


@dataclass(frozen=True, eq=False)
class Looks:
    """Of P parts, as in `scene.SceneBatch`: texture, scale, specular, shininess (P,) · offset (P, 2) · tint (P, 3)."""

    texture: NDArray[np.int64]
    scale: Floats
    offset: Floats
    tint: Floats
    specular: Floats
    shininess: Floats


@dataclass(frozen=True, eq=False)
class Lights:
    """L point lights: for each three waves of its position, colour (L, 3) · ambient (3,) · background (2, 3)."""

    paths: tuple[tuple[Wave, Wave, Wave], ...]
    colour: Floats
    ambient: Floats
    background: Floats

    def positions(self, times_s: Floats) -> Floats:
        """(T, L, 3)."""
        return np.stack([np.stack([wave.at(times_s) for wave in path], -1) for path in self.paths], 1)


@functools.lru_cache(maxsize=4)
def texture_set(number: int, config: ScenesConfig, device: str = "cpu") -> TextureStack:
    """The set of textures that neighbouring seeds share; the same number and settings give the same pictures."""
    rng = np.random.default_rng((0x5E7, number))
    shares = config.share_photographs, config.share_plain, config.share_collages
    pictures = [texture(rng, *shares, config.texture_folder or None) for _ in range(config.num_textures)]
    linear = torch.from_numpy(_LINEAR[np.stack(pictures)]).permute(0, 3, 1, 2)
    return TextureStack.from_images(linear, srgb=False).to(device)


def random_looks(rng: np.random.Generator, bodies: tuple[Body, ...], config: ScenesConfig) -> Looks:
    """Parts of equal material in a body look alike; a fixture's surfaces (walls, ground) have a texture that repeats a few times at most."""
    rows = []
    for body in bodies:
        materials = {part.material: _material(rng, body.is_fixture, config) for part in body.parts}
        for part in body.parts:
            chosen, repeats, tint, specular, shininess = materials[part.material]
            if part.kind == Kind.HEIGHT_FIELD:
                scale = rng.uniform(0.12, 0.5)
            else:
                widest = 2 * max(size for other in body.parts if other.material == part.material for size in other.size)
                scale = repeats / widest
            rows.append((chosen, scale, rng.uniform(0, 1, 2), tint, specular, shininess))
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    return Looks(columns[0].astype(np.int64), *columns[1:])


def _material(rng: np.random.Generator, is_fixture: bool, config: ScenesConfig) -> tuple[int, float, Floats, float, float]:
    """Texture, its repeats over the widest part, tint, specular and shininess."""
    repeats = float(np.exp(rng.uniform(np.log(0.6), np.log(3.0 if is_fixture else 2.0))))
    index = int(rng.integers(config.num_textures))
    tint = rng.uniform(0.6, 1.0) * (1 - rng.uniform(0, 0.25) * rng.random(3))
    if not is_fixture and rng.random() < 0.3 * config.share_plain:
        index, tint = -1, rng.uniform(0.08, 0.7) * (1 - 0.5 * rng.random(3))
    is_glossy = rng.random() < config.share_glossy
    return index, repeats, tint, float(rng.uniform(0.1, 0.8)) if is_glossy else 0.0, float(np.exp(rng.uniform(np.log(6), np.log(120))))


def random_lights(rng: np.random.Generator, layout: Layout, occupancy: Occupancy, config: ScenesConfig, duration_s: float) -> Lights:
    """Lamps in the free air of a room; outdoors the sun, and lamps for the lights beyond the first. They light the middle of the targets alike,
    whatever their distance, up to a random factor."""
    count = int(rng.integers(config.num_lights[0], config.num_lights[1] + 1))
    middle = layout.targets.mean(0)
    paths, colours = [], []
    is_moving = rng.random() < config.share_moving_lights
    for number in range(count):
        is_sun = layout.is_outdoors and number == 0
        place = _sun(rng) if is_sun else _lamp_place(rng, layout, occupancy)
        sway = 0.25 * layout.distance_m[0] if is_moving and not is_sun else 0.0
        waves = [random_wave(rng, float(value), sway * float(rng.random()), duration_s) for value in place]
        paths.append((waves[0], waves[1], waves[2]))
        strength = 1.0 if is_sun else rng.uniform(0.2, 1.0) * (0.3 if layout.is_outdoors else 1.0)
        squared = max(float(np.sum((place - middle) ** 2)), (0.5 * layout.distance_m[0]) ** 2)
        colours.append(strength * squared * (1 + rng.uniform(-1, 1) * np.array([0.15, 0.0, -0.2])))
    ambient = rng.uniform(0.15, 0.6) * count**0.5 * (0.5 if count > 1 else 1.0) * (1 + rng.uniform(-0.12, 0.12, 3))
    zenith = rng.uniform(0.35, 0.9) * np.array([rng.uniform(0.45, 0.9), rng.uniform(0.65, 0.95), 1.0])
    horizon = np.clip(zenith * rng.uniform(0.9, 1.7) + 0.1, 0, 1.2)
    return Lights(tuple(paths), np.stack(colours), ambient, np.stack([horizon, zenith]))


def _sun(rng: np.random.Generator) -> Floats:
    azimuth, elevation = rng.uniform(0, 2 * np.pi), np.radians(rng.uniform(20, 75))
    return 150 * np.array([np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)])


def _lamp_place(rng: np.random.Generator, layout: Layout, occupancy: Occupancy) -> Floats:
    """In the upper part of the region of cameras, away from things at all times; the most open of a few."""
    lower, upper = layout.camera_lower.copy(), layout.camera_upper
    lower[2] += 0.6 * (upper[2] - lower[2])
    places = rng.uniform(lower, upper, (8, 3))
    air = np.min([occupancy.clearance_at(places, time) for time in range(0, len(occupancy.times_s), 11)], 0)
    good = np.flatnonzero(air > 0.2 + 0.4 * layout.distance_m[0])
    return np.asarray(places[good[0] if len(good) else int(air.argmax())])
