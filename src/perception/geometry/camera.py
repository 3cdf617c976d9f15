"""Projection and its inverse for pinhole cameras with the lens distortions of sensor_msgs/CameraInfo.

Points are (x, y) pixels with centres at integers, or (x, y, z) metres in camera axes. NumPy or torch, any leading batch dimensions, same
kind and dtype back. Distortion models and the order of their coefficients are OpenCV's: plumb_bob (k1 k2 p1 p2 [k3]),
rational_polynomial (k1 k2 p1 p2 k3 k4 k5 k6), equidistant (k1 k2 k3 k4, the fisheye model).
"""

from __future__ import annotations

import functools

import numpy as np
from array_api_compat import array_namespace
from numpy.typing import NDArray

from perception.core.types import Camera
from perception.geometry.so3 import Array

_NUM_NEWTON_STEPS = 20
# An inverse that misses the given pixel by more than this is none: the pixel lies outside what the lens model can reach.
_MAX_INVERSE_ERROR_PX = 0.01


def project(points_camera: Array, camera: Camera) -> Array:
    """Pixels (..., 2) of points (..., 3) in camera axes; NaN for points that are not in front of the camera (z <= 0)."""
    xp = array_namespace(points_camera)
    z = points_camera[..., 2:]
    in_front = z > 0
    normalized = points_camera[..., :2] / xp.where(in_front, z, xp.ones_like(z))
    pixels = _to_pixels(distort(normalized, camera), camera)
    return xp.where(in_front, pixels, xp.full_like(pixels, float("nan")))


def unproject(points_px: Array, depth_m: Array, camera: Camera) -> Array:
    """Points (..., 3) in camera axes, in metres, at pixels (..., 2) and depths (...) along z."""
    xp = array_namespace(points_px, depth_m)
    normalized = undistort(_to_normalized(points_px, camera), camera)
    return xp.concat([normalized, xp.ones_like(normalized[..., :1])], axis=-1) * depth_m[..., None]


def undistort_points(points_px: Array, camera: Camera) -> Array:
    """Where pixels (..., 2) would lie if the lens had no distortion (same intrinsic matrix); NaN where the lens model has no inverse."""
    if camera.distortion_model == "none":
        return points_px
    return _to_pixels(undistort(_to_normalized(points_px, camera), camera), camera)


def depth_to_points(depth_m: NDArray, camera: Camera) -> NDArray:
    """Point map (height, width, 3) in camera axes of a depth image (height, width) in metres; NaN where depth is 0, negative or not finite."""
    known = np.isfinite(depth_m) & (depth_m > 0)
    return _rays(camera).astype(depth_m.dtype, copy=False) * np.where(known, depth_m, np.nan)[..., None]


def lift_points(points_px: NDArray, depth_m: NDArray, camera: Camera) -> NDArray:
    """Points (n, 3) in camera axes at pixels (n, 2), with the depth of the nearest pixel of a depth image (height, width).

    NaN outside the image and where the depth is 0, negative or not finite.
    """
    nearest = np.round(points_px)
    inside = np.all((nearest >= 0) & (nearest < (depth_m.shape[1], depth_m.shape[0])), axis=1, keepdims=True)
    col, row = np.where(inside, nearest, 0.0).astype(np.int64).T
    depth = depth_m[row, col]
    known = inside[:, 0] & np.isfinite(depth) & (depth > 0)
    return unproject(points_px, np.where(known, depth, np.nan), camera)


@functools.lru_cache(maxsize=8)
def _rays(camera: Camera) -> NDArray[np.float32]:
    """Points (height, width, 3) at depth 1 m for each pixel; computed once for each camera, as it costs far more than the product."""
    x, y = np.meshgrid(np.arange(camera.width, dtype=np.float64), np.arange(camera.height, dtype=np.float64))
    return unproject(np.stack([x, y], axis=-1), np.ones_like(x), camera).astype(np.float32)


def _to_pixels(normalized: Array, camera: Camera) -> Array:
    xp = array_namespace(normalized)
    return xp.stack([normalized[..., 0] * camera.fx + camera.cx, normalized[..., 1] * camera.fy + camera.cy], axis=-1)


def _to_normalized(points_px: Array, camera: Camera) -> Array:
    xp = array_namespace(points_px)
    return xp.stack([(points_px[..., 0] - camera.cx) / camera.fx, (points_px[..., 1] - camera.cy) / camera.fy], axis=-1)


def distort(normalized: Array, camera: Camera) -> Array:
    """Points (..., 2) on the plane z = 1 as the lens bends them, still on that plane."""
    if camera.distortion_model == "none":
        return normalized
    xp = array_namespace(normalized)
    if camera.distortion_model == "equidistant":
        squared = xp.sum(normalized**2, axis=-1)[..., None]
        centre = squared < 1e-12
        radius = xp.sqrt(xp.where(centre, xp.ones_like(squared), squared))
        angle = xp.atan(radius)
        return normalized * xp.where(centre, xp.ones_like(squared), _bent_angle(angle, camera)[0] / radius)
    return _distort_polynomial(normalized, camera)[0]


def undistort(normalized: Array, camera: Camera) -> Array:
    """Inverse of `distort` by Newton's method; NaN where it does not converge on the branch that the lens uses."""
    if camera.distortion_model == "none":
        return normalized
    if camera.distortion_model == "equidistant":
        return _undistort_equidistant(normalized, camera)
    return _undistort_polynomial(normalized, camera)


def _bent_angle(angle: Array, camera: Camera) -> tuple[Array, Array]:
    """The angle to the axis after the fisheye lens, and its derivative."""
    k1, k2, k3, k4 = camera.distortion
    a = angle**2
    bent = angle * (1 + a * (k1 + a * (k2 + a * (k3 + a * k4))))
    return bent, 1 + a * (3 * k1 + a * (5 * k2 + a * (7 * k3 + a * 9 * k4)))


def _undistort_equidistant(normalized: Array, camera: Camera) -> Array:
    xp = array_namespace(normalized)
    squared = xp.sum(normalized**2, axis=-1)[..., None]
    centre = squared < 1e-12
    radius = xp.sqrt(xp.where(centre, xp.ones_like(squared), squared))
    limit = 0.5 * np.pi - 1e-3  # a ray at 90 degrees has no point on the plane z = 1
    angle = xp.clip(radius, 0.0, limit)
    for _ in range(_NUM_NEWTON_STEPS):
        bent, slope = _bent_angle(angle, camera)
        angle = xp.clip(angle - (bent - radius) / xp.where(xp.abs(slope) < 1e-6, xp.ones_like(slope), slope), 0.0, limit)
    bent, slope = _bent_angle(angle, camera)
    valid = (xp.abs(bent - radius) * camera.fx < _MAX_INVERSE_ERROR_PX) & (slope > 0)
    straight = normalized * xp.where(centre, xp.ones_like(radius), xp.tan(angle) / radius)
    return xp.where(valid | centre, straight, xp.full_like(straight, float("nan")))


def _distort_polynomial(normalized: Array, camera: Camera) -> tuple[Array, tuple[Array, Array, Array]]:
    """Distorted points (..., 2) and the entries (xx, xy, yy) of the symmetric 2x2 Jacobian."""
    xp = array_namespace(normalized)
    k1, k2, p1, p2, k3, k4, k5, k6 = (*camera.distortion, *([0.0] * (8 - len(camera.distortion))))
    x, y = normalized[..., 0], normalized[..., 1]
    r = x * x + y * y
    above, below = 1 + r * (k1 + r * (k2 + r * k3)), 1 + r * (k4 + r * (k5 + r * k6))
    radial = above / below
    slope = (k1 + r * (2 * k2 + r * 3 * k3) - radial * (k4 + r * (2 * k5 + r * 3 * k6))) / below
    bent = xp.stack([x * radial + 2 * p1 * x * y + p2 * (r + 2 * x * x), y * radial + p1 * (r + 2 * y * y) + 2 * p2 * x * y], axis=-1)
    xx = radial + 2 * x * x * slope + 2 * p1 * y + 6 * p2 * x
    yy = radial + 2 * y * y * slope + 6 * p1 * y + 2 * p2 * x
    return bent, (xx, 2 * x * y * slope + 2 * p1 * x + 2 * p2 * y, yy)


def _undistort_polynomial(normalized: Array, camera: Camera) -> Array:
    xp = array_namespace(normalized)
    straight = normalized
    for _ in range(_NUM_NEWTON_STEPS):
        bent, (xx, xy, yy) = _distort_polynomial(straight, camera)
        determinant = xx * yy - xy * xy
        safe = xp.where(xp.abs(determinant) < 1e-9, xp.ones_like(determinant), determinant)
        error = bent - normalized
        step_x = (yy * error[..., 0] - xy * error[..., 1]) / safe
        step_y = (xx * error[..., 1] - xy * error[..., 0]) / safe
        straight = straight - xp.stack([step_x, step_y], axis=-1)
    bent, (xx, xy, yy) = _distort_polynomial(straight, camera)
    error_px = xp.sqrt(xp.sum((bent - normalized) ** 2, axis=-1)) * camera.fx
    valid = (error_px < _MAX_INVERSE_ERROR_PX) & (xx * yy - xy * xy > 0) & (xx + yy > 0)
    return xp.where(valid[..., None], straight, xp.full_like(straight, float("nan")))
