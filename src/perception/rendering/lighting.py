"""Light on surfaces: one directional light with ambient light, or a rig of coloured point and directional lights with highlights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from perception.core.errors import InputError

_DIMMEST_GLINT = 1e-3
"""Share of a highlight's strength below which it is left out."""
_NEAREST = 1e-3
"""Point lights are taken to be at least so far from a surface, in scene units."""


@dataclass(frozen=True)
class Lighting:
    """Lambert shading: colour = albedo * (ambient + diffuse * max(0, cosine)).

    direction points towards the light, in the camera's axes (a head light, the default) or in the scene's.
    """

    ambient: float = 0.45
    diffuse: float = 0.6
    direction: tuple[float, float, float] = (-0.3, -0.5, -1.0)
    in_camera_axes: bool = True

    def factor(self, normals: NDArray[np.float32], scene_from_camera: NDArray) -> NDArray[np.float32]:
        """(num, 1) what the albedo is multiplied with at surfaces of these unit normals (num, 3) in scene axes."""
        towards_light = np.asarray(self.direction) / np.linalg.norm(self.direction)
        if self.in_camera_axes:
            towards_light = scene_from_camera[:3, :3] @ towards_light
        cosine = np.maximum(normals @ towards_light.astype(np.float32), 0)
        return np.asarray((self.ambient + self.diffuse * cosine)[:, None], np.float32)


@dataclass(frozen=True, eq=False)
class LightRig:
    """Several lights: colour = albedo * (ambient + sum of lights * max(0, cosine)) + 255 * highlights (Phong 1975).

    positions (num, 4): homogeneous; (x, y, z, 1) is a point light whose strength falls with the square of the distance, (x, y, z, 0) the
    direction towards a far one · colors (num, 3): strength for red, green, blue, of a point light at distance 1 · ambient (3,) ·
    frame: whether the lights stand in the scene or go with the camera · shininess: exponent of the highlights, `highlight` their strength ·
    shadows: whether surfaces hide lights from each other.
    """

    positions: NDArray[np.float64]
    colors: NDArray[np.float64]
    ambient: tuple[float, float, float] = (0.3, 0.3, 0.3)
    frame: Literal["scene", "camera"] = "scene"
    highlight: float = 0.0
    shininess: float = 32.0
    shadows: bool = False

    def __post_init__(self) -> None:
        if self.positions.ndim != 2 or self.positions.shape[1] != 4 or not np.isin(self.positions[:, 3], (0, 1)).all():
            raise InputError(f"light positions have shape {self.positions.shape}: must be (num, 4) with 1 (a point) or 0 (a direction) at the end")
        if self.colors.shape != (len(self.positions), 3):
            raise InputError(f"light colours have shape {self.colors.shape}: must be {(len(self.positions), 3)}")

    def in_scene(self, scene_from_camera: NDArray) -> NDArray[np.float32]:
        """(num, 4) homogeneous positions in scene axes."""
        positions = self.positions @ scene_from_camera.T if self.frame == "camera" else self.positions
        return np.asarray(positions, np.float32)

    def shade(
        self, points: NDArray[np.float32], normals: NDArray[np.float32], scene_from_camera: NDArray, lit: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Factor of the albedo (num, 3) and highlight (num, 3; None without) at surface points (num, 3) with unit normals (num, 3), in scene axes.

        lit (num, lights): which lights reach a point; None: all.
        """
        lights, colors = self.in_scene(scene_from_camera), np.asarray(self.colors, np.float32)
        is_point, along = lights[:, 3:], lights[:, :3]
        across, upright = np.ascontiguousarray(points.T), np.ascontiguousarray(normals.T)
        # All lights at once with the long axis last, as products of whole matrices: vectors from each point to each light would take far longer.
        squared = (across * across).sum(axis=0) * is_point - 2 * is_point * (along @ across) + (along**2).sum(axis=1, keepdims=True)
        np.maximum(squared, _NEAREST**2, out=squared)
        inverse = 1 / np.sqrt(squared)
        cosine = (along @ upright - (across * upright).sum(axis=0) * is_point) * inverse
        strength = np.where(is_point > 0, inverse * inverse, np.float32(1))
        if lit is not None:
            strength *= lit.T
        factor = (np.maximum(cosine, 0) * strength).T @ colors + np.asarray(self.ambient, np.float32)
        if self.highlight <= 0:
            return factor, None
        view = scene_from_camera[:3, 3:].astype(np.float32) - across
        view *= 1 / np.sqrt((view * view).sum(axis=0))
        mirrored = 2 * (view * upright).sum(axis=0) * cosine - (along @ view - (across * view).sum(axis=0) * is_point) * inverse
        # Powers take long, and nearly everywhere they are as good as 0.
        glint, bright = np.zeros_like(mirrored), (mirrored > _DIMMEST_GLINT ** (1 / self.shininess)) & (cosine > 0)
        glint[bright] = mirrored[bright] ** np.float32(self.shininess) * strength[bright]
        return factor, np.float32(self.highlight) * (glint.T @ colors)


def dot(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """(num,) products of rows (num, 3): several times faster than einsum or a sum over the axis."""
    return a[:, 0] * b[:, 0] + a[:, 1] * b[:, 1] + a[:, 2] * b[:, 2]
