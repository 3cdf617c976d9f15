"""What changes from view to view: lights and backgrounds, drawn from a seeded generator."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import ImageColor

from perception.core.errors import ConfigError
from perception.io.images import list_images, read_image
from perception.rendering.lighting import LightRig
from perception_training.data.synthetic.scenes.textures import photographs

Background = tuple[int, int, int] | NDArray[np.uint8]

_CACHED_IMAGES = 64
_MAX_CACHED_SIDE_PX = 1024


def published_lights(distance: float) -> LightRig:
    """The lights of MEF's renders, for an object `distance` away.

    `data_utils/blenderproc.py` sets them in camera axes around an object at (0, 0, 2): two of energy 200 and one of 20 (a fourth is declared,
    but moves the third). Strengths keep these ratios; their common factor is ours, since Blender's tone mapping is not repeated here.
    """
    positions = np.array([[1, -1, 1, 1], [-1, -1, -1, 1], [1, 0, 1, 1]], float)
    positions[:, :3] *= distance / 2
    strengths = 2.4 * np.array([1, 1, 0.1]) * (distance / 2) ** 2
    return LightRig(positions, np.repeat(strengths[:, None], 3, axis=1), ambient=(0.25, 0.25, 0.25), frame="camera")


def drawn_lights(rng: np.random.Generator, max_lights: int, shadows: bool, towards_camera: NDArray | None) -> LightRig:
    """One to `max_lights` point or far lights around an object at the origin, tinted, with highlights.

    towards_camera (3,): the first light stands on this side of the object, so that what is seen is lit; None: anywhere.
    """
    num = int(rng.integers(1, max_lights + 1))
    directions = rng.normal(size=(num, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    if towards_camera is not None and directions[0] @ towards_camera < 0:
        directions[0] *= -1
    is_point, distances = rng.random(num) < 0.6, rng.uniform(1.2, 3.5, num)
    positions = np.column_stack([directions * np.where(is_point, distances, 1.0)[:, None], is_point])
    shares = rng.uniform(0.2, 1.0, num)
    shares *= rng.uniform(0.6, 1.2) / shares.sum()
    # A point light at distance 1 is brighter by its squared distance, so that each light's share is what arrives at the middle of the object.
    tints = rng.uniform(0.75, 1.0, (num, 3))
    colors = tints / tints.mean(axis=1, keepdims=True) * (shares * np.where(is_point, distances**2, 1.0))[:, None]
    ambient = rng.uniform(0.15, 0.5) * rng.uniform(0.9, 1.1, 3)
    highlight, shininess = rng.uniform(0.0, 0.3), 2.0 ** rng.uniform(3, 7)
    return LightRig(positions, colors, (ambient[0], ambient[1], ambient[2]), "scene", highlight, shininess, shadows)


def background_source(setting: str, size_px: int) -> Callable[[np.random.Generator], Background]:
    """What draws a background for the setting `MeshViewsConfig.background`. Raises ConfigError when it is neither a colour nor a folder."""
    if setting == "photographs":
        return lambda rng: random_crop(rng, _shipped(rng), size_px)
    if re.fullmatch(r"#[0-9a-fA-F]{6}|[a-z]+", setting) and not Path(setting).is_dir():
        try:
            color = ImageColor.getrgb(setting)
        except ValueError as error:
            raise ConfigError(f"background = {setting!r}: must be #rrggbb, the name of a colour, `photographs` or a folder of images") from error
        return lambda rng: (color[0], color[1], color[2])
    if not Path(setting).is_dir():
        raise ConfigError(f"background = {setting!r}: no such folder; must be #rrggbb, the name of a colour, `photographs` or a folder of images")
    paths = list_images(setting)
    return lambda rng: random_crop(rng, _cached_image(paths[int(rng.integers(len(paths)))]), size_px)


def _shipped(rng: np.random.Generator) -> NDArray[np.uint8]:
    pictures = photographs()
    return pictures[int(rng.integers(len(pictures)))]


@lru_cache(maxsize=_CACHED_IMAGES)
def _cached_image(path: Path) -> NDArray[np.uint8]:
    """An image, shrunk when it is large: it serves many views."""
    image = read_image(path)
    shrink = _MAX_CACHED_SIDE_PX / max(image.shape[:2])
    if shrink >= 1:
        return image
    return np.asarray(cv2.resize(image, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA), np.uint8)


def random_crop(rng: np.random.Generator, image: NDArray[np.uint8], size_px: int) -> NDArray[np.uint8]:
    """A random square of 60 to 100 % of the image's shorter side, perhaps mirrored, at (size_px, size_px, 3)."""
    shorter = min(image.shape[:2])
    side = max(1, int(rng.uniform(0.6, 1.0) * shorter))
    top, left = int(rng.integers(image.shape[0] - side + 1)), int(rng.integers(image.shape[1] - side + 1))
    crop = image[top : top + side, left : left + side]
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    interpolation = cv2.INTER_AREA if side > size_px else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(np.ascontiguousarray(crop), (size_px, size_px), interpolation=interpolation), np.uint8)
