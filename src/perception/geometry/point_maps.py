"""Point maps, a point for every pixel, and surface normals of depth images."""

from __future__ import annotations

import numpy as np
from array_api_compat import array_namespace
from numpy.typing import NDArray

from perception.core.errors import InputError
from perception.core.types import Camera
from perception.geometry import se3
from perception.geometry.camera import depth_to_points
from perception.geometry.so3 import Array


def points_in_world(points_camera: Array, world_from_camera: Array) -> Array:
    """Point maps (..., height, width, 3) in world axes, from maps in camera axes and their poses (..., 4, 4). NumPy or torch, same kind back.

    A pose may be a similarity. Raises InputError where the maps and the poses are not equally many.
    """
    xp = array_namespace(points_camera, world_from_camera)
    shape = tuple(points_camera.shape)
    if len(shape) < 3 or shape[-1] != 3 or tuple(world_from_camera.shape) != (*shape[:-3], 4, 4):
        raise InputError(
            f"point maps {shape} with poses {tuple(world_from_camera.shape)}: "
            "must be (..., height, width, 3) and (..., 4, 4) with the same leading sizes"
        )
    flat = xp.reshape(points_camera, (*shape[:-3], shape[-3] * shape[-2], 3))
    return xp.reshape(se3.transform_points(world_from_camera, flat), shape)


def normals_from_depth(depth_m: NDArray, camera: Camera, max_jump: float = 0.05) -> NDArray[np.float32]:
    """Unit normals (height, width, 3) in camera axes that face the camera, from a depth image (height, width) in metres.

    Along each axis the difference of the two neighbours is taken, or of one where the other is unknown or steps in depth by more than the
    share `max_jump`: the normals do not smear over the outlines of things. NaN where the depth is unknown or an axis has no usable neighbour.
    """
    points = depth_to_points(depth_m, camera)
    normals = np.cross(_difference(points, 0, max_jump), _difference(points, 1, max_jump))
    length = np.linalg.norm(normals, axis=-1, keepdims=True)
    towards = np.sum(normals * points, axis=-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        normals = np.where(towards > 0, -normals, normals) / length
    return normals.astype(np.float32)


def _difference(points: NDArray, axis: int, max_jump: float) -> NDArray:
    """Tangent (height, width, 3) along an image axis; its length has no meaning."""
    step = np.diff(points, axis=axis)
    depth = points[..., 2]
    near, far = (np.take(depth, range(a, depth.shape[axis] - 1 + a), axis=axis) for a in (0, 1))
    with np.errstate(invalid="ignore"):
        step[~(np.abs(far - near) <= max_jump * np.minimum(near, far))] = np.nan
    pad = [(0, 0)] * 3
    pad[axis] = (0, 1)
    forward = np.pad(step, pad, constant_values=np.nan)
    pad[axis] = (1, 0)
    backward = np.pad(step, pad, constant_values=np.nan)
    total = np.nan_to_num(forward) + np.nan_to_num(backward)
    neither = np.isnan(forward[..., :1]) & np.isnan(backward[..., :1])
    return np.where(neither, np.nan, total)
