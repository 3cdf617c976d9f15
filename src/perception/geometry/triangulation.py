"""3D points from their tracks in several posed views: linear start, Gauss-Newton refinement, and checks of what comes out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from perception.core.config import Checked, Range
from perception.core.errors import InputError
from perception.core.types import Camera
from perception.geometry import camera as camera_geometry
from perception.geometry import se3

_NUM_REFINEMENT_STEPS = 10
# Points that are handled at once: the angles between all pairs of rays take num_views^2 numbers for each.
_TILE = 2048


@dataclass(frozen=True, kw_only=True)
class TriangulationConfig(Checked):
    """Points from tracks in posed views."""

    min_views: Annotated[int, Range(2, 1000)] = 2
    """A point needs at least as many views that agree with it."""
    min_angle_deg: Annotated[float, Range(0.0, 90.0, "deg")] = 2.0
    """A point needs two rays that meet at this angle at least: flatter ones leave the depth open."""
    max_error_px: Annotated[float, Range(0.01, 100.0, "px")] = 2.0
    """Observations with a larger reprojection error are left out and the point is solved again without them."""


@dataclass(frozen=True, eq=False)
class TriangulatedPoints:
    """points (n, 3) in world axes in metres, NaN where not valid · valid (n,) bool · used (views, n) bool, the observations that support a point ·
    error_px (n,) root mean square reprojection error over them · angle_rad (n,) largest angle between two of their rays."""

    points: NDArray[np.float64]
    valid: NDArray[np.bool_]
    used: NDArray[np.bool_]
    error_px: NDArray[np.float64]
    angle_rad: NDArray[np.float64]


def triangulate(
    points_px: NDArray, visible: NDArray, camera_from_world: NDArray, cameras: Camera | Sequence[Camera], config: TriangulationConfig
) -> TriangulatedPoints:
    """Points seen at pixels (views, n, 2) where `visible` (views, n) by cameras with poses (views, 4, 4).

    cameras: one for all views or one for each; distortion is taken out first. Invisible entries may hold anything, also NaN. A point is valid when
    at least `min_views` views see it in front of them within `max_error_px` and two of their rays meet at `min_angle_deg`.
    """
    points_px, camera_from_world = np.asarray(points_px, np.float64), np.asarray(camera_from_world, np.float64)
    num_views, num = np.shape(visible)
    if points_px.shape != (num_views, num, 2) or camera_from_world.shape != (num_views, 4, 4):
        raise InputError(
            f"points_px {points_px.shape}, visible {np.shape(visible)}, camera_from_world {camera_from_world.shape}: "
            "must be (views, n, 2), (views, n), (views, 4, 4)"
        )
    views = [cameras] * num_views if isinstance(cameras, Camera) else list(cameras)
    if len(views) != num_views:
        raise InputError(f"{len(views)} cameras for {num_views} views: give one camera for all or one for each")
    straight_px = np.stack([camera_geometry.undistort_points(p, c) for p, c in zip(points_px, views, strict=True)]) if views else points_px
    usable = np.asarray(visible, bool) & np.isfinite(straight_px).all(axis=-1)
    projection = np.stack([c.matrix @ pose[:3] for c, pose in zip(views, camera_from_world, strict=True)])
    centres = se3.inverse(camera_from_world)[:, :3, 3]
    tiles = [slice(first, first + _TILE) for first in range(0, num, _TILE)]
    parts = [_triangulate_tile(straight_px[:, tile], usable[:, tile], projection, centres, config) for tile in tiles]
    if not parts:
        return TriangulatedPoints(np.empty((0, 3)), np.empty(0, bool), usable, np.empty(0), np.empty(0))
    points, valid, used, error, angle = (np.concatenate(part, axis=-1) for part in zip(*parts, strict=True))
    return TriangulatedPoints(points.T, valid, used, error, angle)


def _triangulate_tile(
    pixels: NDArray, usable: NDArray, projection: NDArray, centres: NDArray, config: TriangulationConfig
) -> tuple[NDArray, NDArray, NDArray, NDArray, NDArray]:
    """Points (3, n), valid (n,), used (views, n), error (n,), angle (n,): points come last so that tiles can be joined."""
    pixels = np.where(usable[..., None], pixels, 0.0)
    points = _refined(_linear(pixels, usable, projection, centres), pixels, usable, projection)
    error = _errors_px(points, pixels, projection)
    used = usable & (error <= config.max_error_px)
    again = (used != usable).any(axis=0) & (used.sum(axis=0) >= 2)
    if again.any():
        points[again] = _refined(points[again], pixels[:, again], used[:, again], projection)
        error = _errors_px(points, pixels, projection)
        used = usable & (error <= config.max_error_px)
    num_used = used.sum(axis=0)
    angle = _largest_angle(points, used, centres)
    valid = np.isfinite(points).all(axis=1) & (num_used >= config.min_views) & (angle >= np.deg2rad(config.min_angle_deg))
    rms = np.sqrt(np.sum(np.where(used, error, 0.0) ** 2, axis=0) / np.maximum(num_used, 1))
    return np.where(valid[:, None], points, np.nan).T, valid, used & valid, np.where(valid, rms, np.nan), angle


def _linear(pixels: NDArray, used: NDArray, projection: NDArray, centres: NDArray) -> NDArray:
    """Direct linear transform, (n, 3). The world is shifted and scaled to the cameras first, which keeps the equations well conditioned."""
    middle = centres.mean(axis=0)
    spread = max(float(np.abs(centres - middle).max()), 1e-9)
    world_from_unit = np.diag([spread, spread, spread, 1.0])
    world_from_unit[:3, 3] = middle
    p = projection @ world_from_unit
    rows = pixels[..., None] * p[:, None, 2:3, :] - p[:, None, :2, :]  # (views, n, 2, 4)
    rows = rows / np.linalg.norm(rows, axis=-1, keepdims=True) * used[..., None, None]
    _, vectors = np.linalg.eigh(np.einsum("vnik,vnil->nkl", rows, rows))
    homogeneous = vectors[..., 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        return homogeneous[:, :3] / homogeneous[:, 3:] * spread + middle


def _projected(points: NDArray, projection: NDArray) -> tuple[NDArray, NDArray]:
    """Pixels (views, n, 2) and depths (views, n)."""
    homogeneous = np.einsum("vij,nj->vni", projection[:, :, :3], points) + projection[:, None, :, 3]
    depth = homogeneous[..., 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        return homogeneous[..., :2] / depth[..., None], depth


def _errors_px(points: NDArray, pixels: NDArray, projection: NDArray) -> NDArray:
    """Reprojection errors (views, n), infinite behind a camera."""
    projected, depth = _projected(points, projection)
    error = np.linalg.norm(projected - pixels, axis=-1)
    return np.where((depth > 0) & np.isfinite(error), error, np.inf)


def _refined(points: NDArray, pixels: NDArray, used: NDArray, projection: NDArray) -> NDArray:
    """Gauss-Newton with damping on the squared reprojection errors, each point by itself; a step that makes a point worse is not taken."""
    damping = np.full(len(points), 1e-3)
    cost = _cost(points, pixels, used, projection)
    for _ in range(_NUM_REFINEMENT_STEPS):
        projected, depth = _projected(points, projection)
        with np.errstate(divide="ignore", invalid="ignore"):
            slope = (projection[:, None, :2, :3] - projected[..., None] * projection[:, None, 2:, :3]) / depth[..., None, None]
        slope = np.where(used[..., None, None], slope, 0.0)
        residual = np.where(used[..., None], projected - pixels, 0.0)
        normal = np.einsum("vnik,vnil->nkl", slope, slope)
        gradient = np.einsum("vnik,vni->nk", slope, residual)
        trace = np.trace(normal, axis1=1, axis2=2)
        solvable = np.isfinite(trace) & (trace > 0) & np.isfinite(gradient).all(axis=1)
        normal = np.where(solvable[:, None, None], normal, np.eye(3)) + (damping * np.where(solvable, trace, 1.0))[:, None, None] * np.eye(3)
        trial = points - np.linalg.solve(normal, np.where(solvable[:, None], gradient, 0.0)[..., None])[..., 0]
        trial_cost = _cost(trial, pixels, used, projection)
        better = trial_cost < cost
        points, cost = np.where(better[:, None], trial, points), np.where(better, trial_cost, cost)
        damping = np.where(better, damping * 0.1, damping * 10.0)
    return points


def _cost(points: NDArray, pixels: NDArray, used: NDArray, projection: NDArray) -> NDArray:
    return np.sum(np.where(used, _errors_px(points, pixels, projection), 0.0) ** 2, axis=0)


def _largest_angle(points: NDArray, used: NDArray, centres: NDArray) -> NDArray:
    """Largest angle (n,) in radians between two rays of used views; 0 with fewer than two."""
    rays = points[:, None] - centres
    with np.errstate(divide="ignore", invalid="ignore"):
        rays = rays / np.linalg.norm(rays, axis=-1, keepdims=True)
    rays = np.where(used.T[..., None] & np.isfinite(rays), rays, 0.0)
    pairs = used.T[:, :, None] & used.T[:, None, :]
    # From the chord, which stays accurate at small angles, where the cosine does not.
    cosine = np.where(pairs, rays @ rays.transpose(0, 2, 1), 1.0).min(axis=(1, 2))
    return 2 * np.arcsin(np.sqrt(np.clip((1 - cosine) / 2, 0.0, 1.0)))
