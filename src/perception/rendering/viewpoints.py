"""Viewpoints spread evenly around an object, and the camera poses that look at it from there."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from perception.core.errors import InputError

ICOSPHERE_SIZES = (12, 42, 162, 642)
"""Vertices of an icosahedron whose faces were split 0, 1, 2, 3 times."""


def viewpoints(num: int) -> NDArray[np.float64]:
    """(num, 3) unit vectors from the object towards the cameras, spread evenly over the sphere.

    12, 42, 162 and 642 are the vertices of the icosphere (MEF renders 42). Any other number, such as the 96 views of an object database, is a
    spherical Fibonacci lattice: point i at height 1 - (2 i + 1) / num and longitude i times the golden angle, which for 96 is as even as an
    icosphere and has exactly half of its points on either hemisphere.
    """
    if num < 1:
        raise InputError(f"{num} viewpoints: must be at least 1")
    if num in ICOSPHERE_SIZES:
        return icosphere(ICOSPHERE_SIZES.index(num))
    z = 1 - (2 * np.arange(num) + 1) / num
    longitude = np.arange(num) * np.pi * (3 - np.sqrt(5))
    radius = np.sqrt(1 - z**2)
    return np.stack([radius * np.cos(longitude), radius * np.sin(longitude), z], axis=1)


def icosphere(num_splits: int) -> NDArray[np.float64]:
    """Unit vectors to the vertices of an icosahedron whose faces are split `num_splits` times: (10 * 4**num_splits + 2, 3)."""
    golden = (1 + np.sqrt(5)) / 2
    corners = [(0, a, b * golden) for a in (-1, 1) for b in (-1, 1)]
    points = [np.roll(corner, turn) for turn in range(3) for corner in corners]
    vertices = np.array(points) / np.linalg.norm(points[0])
    for _ in range(num_splits):
        vertices = _with_edge_middles(vertices)
    return vertices


def _with_edge_middles(vertices: NDArray[np.float64]) -> NDArray[np.float64]:
    """The vertices and the middles of their edges, back on the sphere. Its edges differ in length by less than 1.25."""
    distances = np.linalg.norm(vertices[:, None] - vertices[None], axis=-1)
    shortest = distances[distances > 0].min()
    first, second = np.nonzero(np.triu(distances < 1.35 * shortest, k=1))
    middles = vertices[first] + vertices[second]
    return np.concatenate([vertices, middles / np.linalg.norm(middles, axis=1, keepdims=True)])


def look_at(camera_position: NDArray, target: NDArray, up: NDArray | tuple[float, float, float] = (0.0, 0.0, 1.0)) -> NDArray[np.float64]:
    """(4, 4) camera_from_world of a camera at `camera_position` (3,) whose optical axis meets `target` (3,), with `up` upwards in the image.

    Looking straight along `up`, any direction is as good as another: world y is taken.
    """
    position, forward = np.asarray(camera_position, float), np.asarray(target, float) - np.asarray(camera_position, float)
    length = np.linalg.norm(forward)
    if length < 1e-9:
        raise InputError(f"camera at {position.tolist()} must not lie on its target")
    forward = forward / length
    right = np.cross(forward, up)
    if np.linalg.norm(right) < 1e-6:
        right = np.cross(forward, (0.0, 1.0, 0.0)) if abs(forward[1]) < 0.9 else np.cross(forward, (1.0, 0.0, 0.0))
    right = right / np.linalg.norm(right)
    camera_from_world = np.eye(4)
    camera_from_world[:3, :3] = np.stack([right, np.cross(forward, right), forward])
    camera_from_world[:3, 3] = -camera_from_world[:3, :3] @ position
    return camera_from_world


def cameras_around(center: NDArray, distance_m: float, num: int) -> NDArray[np.float64]:
    """(num, 4, 4) camera_from_object of cameras at `viewpoints(num)`, `distance_m` away from `center` (3,) and looking at it."""
    if not distance_m > 0:
        raise InputError(f"camera distance {distance_m} m: must be positive")
    return np.stack([look_at(np.asarray(center) + distance_m * direction, center) for direction in viewpoints(num)])
