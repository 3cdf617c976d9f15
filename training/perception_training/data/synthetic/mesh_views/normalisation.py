"""The frame of MEF's renders: object centred, its longest side 1, seen from the corners of a divided icosahedron that stands on a corner."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from perception.core.errors import InputError
from perception.io.meshes import Mesh
from perception.rendering.viewpoints import ICOSPHERE_SIZES, look_at, viewpoints

_TEXELS_PER_PIXEL = 1.5
_Z_UP_FROM_Y_UP = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]])


def normalised_from_mesh(mesh: Mesh, y_up: bool) -> NDArray[np.float64]:
    """(4, 4) similarity from a mesh's own coordinates to the normalised frame. Raises InputError for a mesh without extent."""
    turn = _Z_UP_FROM_Y_UP if y_up else np.eye(3)
    low, high = mesh.bounds.astype(np.float64)
    longest = float((high - low).max())
    if not longest > 0:
        raise InputError(f"mesh {mesh.name!r}: all vertices lie in one point; must have an extent")
    transform = np.eye(4)
    transform[:3, :3] = turn / longest
    transform[:3, 3] = -turn @ ((low + high) / 2) / longest
    return transform


def normalised(mesh: Mesh, transform: NDArray[np.float64]) -> Mesh:
    """The mesh in the normalised frame."""
    vertices = mesh.vertices.astype(np.float64) @ transform[:3, :3].T + transform[:3, 3]
    return replace(mesh, vertices=vertices.astype(np.float32))


def with_texture_for(mesh: Mesh, pixels_per_unit: float) -> Mesh:
    """The mesh with its texture shrunk to about 1.5 texels for each pixel of a view, averaged, so that fine patterns do not flicker.

    Neighbouring patches of a texture atlas mix over less than a pixel of the view. Textures that are coarse enough stay as they are.
    """
    if mesh.texture is None or mesh.uv is None:
        return mesh
    height, width = mesh.texture.shape[:2]
    uv_px = mesh.uv[mesh.faces].astype(np.float64) * (width, height)
    first, second = uv_px[:, 1] - uv_px[:, 0], uv_px[:, 2] - uv_px[:, 0]
    texels = np.abs(first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0]).sum()
    corners = mesh.vertices[mesh.faces].astype(np.float64)
    surface = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1).sum()
    if not (texels > 0 and surface > 0):
        return mesh
    shrink = _TEXELS_PER_PIXEL * pixels_per_unit / np.sqrt(texels / surface)
    if shrink >= 1:
        return mesh
    size = max(1, round(width * shrink)), max(1, round(height * shrink))
    return replace(mesh, texture=np.asarray(cv2.resize(mesh.texture, size, interpolation=cv2.INTER_AREA), np.uint8))


def poses(num_views: int, distance: float) -> NDArray[np.float64]:
    """(num_views, 4, 4) camera_from_object, z up in the image, from below to above.

    For 42 these are the poses of MEF's `obj_poses.npy` (to its 5 digits, in another order): OpenCV camera axes, a corner of the icosahedron
    below and above, the next corners above the equator towards +x.
    """
    directions = viewpoints(num_views)
    if num_views in ICOSPHERE_SIZES:
        # The icosphere has a corner at (0, 1, golden ratio), which is turned upwards about x, and then a corner of the upper ring towards +x.
        golden = (1 + np.sqrt(5)) / 2
        rise = np.hypot(1, golden)
        upright = np.array([[1, 0, 0], [0, golden / rise, -1 / rise], [0, 1 / rise, golden / rise]])
        directions = directions @ (np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]]) @ upright).T
        directions = np.where(np.abs(directions) < 1e-12, 0.0, directions)
    order = np.lexsort((np.arctan2(directions[:, 1], directions[:, 0]).round(6), directions[:, 2].round(6)))
    return np.stack([look_at(distance * direction, np.zeros(3)) for direction in directions[order]])
