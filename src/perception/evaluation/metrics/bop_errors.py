"""Pose errors of the BOP benchmark: VSD, MSSD, MSPD and the projection error. Rotation, translation, ADD and ADI errors are in `pose`.

Poses are `camera_from_object` (4, 4) in metres; `symmetries` (num, 4, 4) as `symmetries_from_model_info` gives them, the identity among them.
Sources: Hodan et al., BOP Challenge 2020 (ECCV Workshops 2020); bop_toolkit `pose_error`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from perception.core.errors import InputError
from perception.core.types import Camera
from perception.geometry import camera as camera_geometry

TAUS: tuple[float, ...] = tuple(np.arange(0.05, 0.51, 0.05).tolist())
"""Misalignment tolerances of VSD, as shares of the diameter; BOP 2019."""

VISIBILITY_TOLERANCE_M = 0.015
"""How far behind the measured surface a pixel may lie and still be visible; BOP 2019 (ITODD: 0.005)."""


def visible_surface_discrepancy(
    depth_estimated_m: NDArray,
    depth_true_m: NDArray,
    depth_measured_m: NDArray,
    camera: Camera,
    diameter_m: float,
    tolerance_m: float = VISIBILITY_TOLERANCE_M,
    taus: tuple[float, ...] = TAUS,
    cost: Literal["step", "linear"] = "step",
) -> NDArray[np.float64]:
    """VSD: share of the visible surface that the two poses do not agree on, in [0, 1], lower is better; one value for each of `taus`.

    depth_estimated_m, depth_true_m (height, width): the model rendered alone in both poses, 0 beside it · depth_measured_m: the camera's depth,
    0 or NaN where unknown (there the model counts as visible) · taus: as shares of `diameter_m` (with a diameter of 1: metres) · cost: step, a pixel
    counts fully from tau on; linear, by its distance up to tau (Hodan et al., ECCV Workshops 2016). 1 when nothing is visible in either pose.
    """
    shapes = [np.shape(depth) for depth in (depth_estimated_m, depth_true_m, depth_measured_m)]
    if any(shape != (camera.height, camera.width) for shape in shapes):
        raise InputError(f"depth images of shapes {shapes}: must all be {(camera.height, camera.width)} like the camera's image")
    rows, cols = np.nonzero((np.asarray(depth_estimated_m) > 0) | (np.asarray(depth_true_m) > 0))
    rays = camera_geometry.unproject(np.stack([cols, rows], axis=-1).astype(np.float64), np.ones(len(rows)), camera)
    estimated, true, measured = (
        np.linalg.norm(rays * np.nan_to_num(np.asarray(depth, np.float64)[rows, cols])[:, None], axis=1)
        for depth in (depth_estimated_m, depth_true_m, depth_measured_m)
    )
    true_visible = _is_visible(true, measured, tolerance_m)
    estimated_visible = _is_visible(estimated, measured, tolerance_m) | (true_visible & (estimated > 0))
    both = true_visible & estimated_visible
    num_either = int((true_visible | estimated_visible).sum())
    if not num_either:
        return np.ones(len(taus))
    shares = np.abs(true[both] - estimated[both]) / diameter_m
    costs = [(shares >= tau).sum() if cost == "step" else np.minimum(shares / tau, 1.0).sum() for tau in taus]
    return (np.array(costs, np.float64) + (num_either - int(both.sum()))) / num_either


def _is_visible(model_m: NDArray, measured_m: NDArray, tolerance_m: float) -> NDArray[np.bool_]:
    """Of distances along the ray. Compared in single-precision millimetres like the toolkit, so that borderline pixels fall on the same side."""
    behind_mm = (1000.0 * model_m).astype(np.float32) - (1000.0 * measured_m).astype(np.float32)
    return (model_m > 0) & ((behind_mm <= np.float32(1000.0 * tolerance_m)) | (measured_m == 0))


def mssd_error_m(estimated: NDArray, true: NDArray, points_object: NDArray, symmetries: NDArray | None = None) -> float:
    """MSSD: largest distance of a model point between both poses, for the symmetry for which it is smallest, metres, lower is better.

    points_object (num, 3), at least one.
    """

    def worst(equivalent: NDArray, points: NDArray) -> NDArray:
        motion = np.asarray(estimated, np.float64) - equivalent
        offset = points @ np.swapaxes(motion[..., :3, :3], -1, -2) + motion[..., None, :3, 3]
        return np.sqrt(np.square(offset).sum(-1).max(-1))

    return _least_worst(worst, true, points_object, symmetries)


def mspd_error_px(estimated: NDArray, true: NDArray, points_object: NDArray, camera: Camera, symmetries: NDArray | None = None) -> float:
    """MSPD: largest distance in the image of a model point between both poses, for the symmetry for which it is smallest, pixels, lower is better.

    points_object (num, 3), at least one; the camera must have no lens distortion (BOP images have none). Points behind the camera are projected
    through its centre like any other, as published.
    """

    def worst(equivalent: NDArray, points: NDArray) -> NDArray:
        offset = _project(equivalent, points, camera) - _project(estimated, points, camera)
        return np.sqrt(np.square(offset).sum(-1).max(-1))

    return _least_worst(worst, true, points_object, symmetries)


def projection_error_px(estimated: NDArray, true: NDArray, points_object: NDArray, camera: Camera) -> float:
    """Mean distance in the image of the model's points between both poses, pixels, lower is better. Source: Brachmann et al., CVPR 2016."""
    points = _checked(points_object)
    return float(np.linalg.norm(_project(estimated, points, camera) - _project(true, points, camera), axis=-1).mean())


def _least_worst(worst: Callable[[NDArray, NDArray], NDArray], true: NDArray, points_object: NDArray, symmetries: NDArray | None) -> float:
    """Smallest over the symmetries of `worst(equivalent true poses (..., 4, 4), points)`, the largest error of any point.

    The error of a few outermost points is a lower bound for that of all. All points are therefore looked at only for the symmetries whose bound
    lies below the best value found, one after the other from the lowest bound on: the result is exact, memory that of one pose.
    """
    points = _checked(points_object)
    motions = np.eye(4)[None] if symmetries is None else np.asarray(symmetries, np.float64)
    if motions.ndim != 3 or motions.shape[1:] != (4, 4) or not len(motions):
        raise InputError(f"symmetries have shape {motions.shape}; must be (num, 4, 4) with at least the identity")
    equivalent = np.asarray(true, np.float64) @ motions
    bound = worst(equivalent, _outermost(points)) if len(equivalent) > 1 else np.zeros(1)
    best = np.inf
    for index in np.argsort(bound, kind="stable"):
        if bound[index] >= best:
            break
        best = min(best, float(worst(equivalent[index], points)))
    return best


def _outermost(points: NDArray) -> NDArray:
    """At most 26 of the points: the farthest ones towards the faces, edges and corners of a cube."""
    directions = np.stack(np.meshgrid(*[(-1.0, 0.0, 1.0)] * 3), axis=-1).reshape(-1, 3)
    directions = directions[np.any(directions != 0, axis=1)]
    return points[np.unique((points @ directions.T).argmax(axis=0))]


def _project(camera_from_object: NDArray, points: NDArray, camera: Camera) -> NDArray:
    """Pixels (..., num, 2) under poses (..., 4, 4)."""
    if camera.distortion_model != "none":
        raise InputError(f"camera with lens distortion {camera.distortion_model!r}: must have none, undistort the images first")
    projection = camera.matrix @ np.asarray(camera_from_object, np.float64)[..., :3, :]
    homogeneous = points @ np.swapaxes(projection[..., :3], -1, -2) + projection[..., None, :, 3]
    return homogeneous[..., :2] / homogeneous[..., 2:]


def _checked(points_object: NDArray) -> NDArray[np.float64]:
    points = np.asarray(points_object, np.float64)
    if points.ndim != 2 or points.shape[1] != 3 or not len(points):
        raise InputError(f"model points have shape {points.shape}; must be (num, 3) with at least one point")
    return points
