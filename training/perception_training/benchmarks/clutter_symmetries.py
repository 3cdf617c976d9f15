"""Turns under which a textured mesh looks the same from everywhere, found by rendering it: no list of objects, and texture counts.

A turn about an axis through the middle of the box (axes of the box, and principal axes of the surface) is a symmetry when renders in even light with
and without it differ nowhere by much. BOP keeps lists by hand, which go by shape and take texture into account by judgement.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from perception.core.types import Camera
from perception.geometry.se3 import from_rotation_translation
from perception.io.meshes import Mesh
from perception.rendering.lighting import Lighting
from perception.rendering.raycast import MeshScene, render
from perception.rendering.viewpoints import cameras_around

_SIZE_PX = 96
_NUM_VIEWS = 12
_DISTANCE = 3.0
_BACKGROUND = (128, 0, 255)
"""A colour that few objects have, so that silhouettes count, too."""
_MAX_DIFFERENCE = 8.0
"""Grey levels, mean over what either render shows, in the worst view."""
_ORDERS = (2, 3, 4, 6)
_ODD_TURNS_DEG = (25.0, 47.0, 101.0)
_CONTINUOUS_STEPS = 72


def texture_symmetries(mesh: Mesh) -> NDArray[np.float64]:
    """(num, 4, 4) turns in the object's frame, the identity first; a continuous symmetry is cut into steps of 5 degrees."""
    test = _Renders(mesh)
    found = [np.eye(4)]
    for axis in _axes(mesh):
        order = _CONTINUOUS_STEPS if all(test.same(_turn(axis, degrees, mesh)) for degrees in _ODD_TURNS_DEG) else 0
        order = order or max((item for item in _ORDERS if test.same(_turn(axis, 360 / item, mesh))), default=1)
        found += [_turn(axis, 360 * step / order, mesh) for step in range(1, order)]
    return np.stack(found)


def _axes(mesh: Mesh) -> NDArray[np.float64]:
    """(num, 3) unit vectors, each direction once."""
    vertices = mesh.vertices.astype(np.float64)
    _, _, principal = np.linalg.svd(vertices - vertices.mean(axis=0), full_matrices=False)
    kept: list[NDArray[np.float64]] = []
    for axis in (*np.eye(3), *principal):
        if all(abs(axis @ other) < np.cos(np.radians(2.0)) for other in kept):
            kept.append(axis)
    return np.stack(kept)


def _turn(axis: NDArray[np.float64], degrees: float, mesh: Mesh) -> NDArray[np.float64]:
    rotation = Rotation.from_rotvec(np.radians(degrees) * axis).as_matrix()
    middle = mesh.center.astype(np.float64)
    return from_rotation_translation(rotation, middle - rotation @ middle)


class _Renders:
    """Renders of a mesh from all sides."""

    def __init__(self, mesh: Mesh) -> None:
        self._scene = MeshScene({"object": (mesh, np.eye(4))})
        focal = 0.9 * _DISTANCE * _SIZE_PX
        self._camera = Camera(_SIZE_PX, _SIZE_PX, focal, focal, (_SIZE_PX - 1) / 2, (_SIZE_PX - 1) / 2)
        self._poses = cameras_around(mesh.center, _DISTANCE * mesh.diameter_m, _NUM_VIEWS)
        self._plain = [self._render(pose) for pose in self._poses]

    def same(self, turn: NDArray[np.float64]) -> bool:
        """Whether a turn (4, 4) changes no view by much."""
        return all(_difference(plain, self._render(pose @ turn)) < _MAX_DIFFERENCE for plain, pose in zip(self._plain, self._poses, strict=True))

    def _render(self, pose: NDArray[np.float64]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        view = render(self._scene, self._camera, pose, lighting=Lighting(1.0, 0.0), background=_BACKGROUND, supersampling=2, num_threads=1)
        return view.image, view.mask


def _difference(one: tuple[NDArray[np.uint8], NDArray[np.bool_]], other: tuple[NDArray[np.uint8], NDArray[np.bool_]]) -> float:
    either = one[1] | other[1]
    return float(np.abs(one[0][either].astype(np.float64) - other[0][either]).mean()) if either.any() else 0.0
