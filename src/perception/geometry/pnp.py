"""Camera pose from 2D-3D correspondences with outliers: RANSAC, robust non-linear refinement, covariance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import cv2
import numpy as np
import poselib
from numpy.typing import NDArray

from perception.core.config import Checked, Range
from perception.core.errors import InputError
from perception.core.types import Camera
from perception.geometry import camera as camera_geometry
from perception.geometry import se3, so3

# OnePose++ and MEF hand object points to OpenCV in millimetres; its EPnP gives other results in metres.
_PUBLISHED_SCALE = 1000.0
_PUBLISHED_CONFIDENCE = 0.99


@dataclass(frozen=True, kw_only=True)
class SolverConfig(Checked):
    """Pose from 2D-3D matches."""

    method: Literal["poselib", "opencv_epnp"] = "poselib"
    """poselib: LO-RANSAC over P3P; opencv_epnp: solvePnPRansac with EPnP as published with OnePose++ and MEF."""
    max_iterations: Annotated[int, Range(1, 1_000_000)] = 10_000
    """Upper bound of RANSAC iterations."""
    min_iterations: Annotated[int, Range(0, 1_000_000)] = 50
    """RANSAC does not stop before as many iterations (poselib only)."""
    confidence: Annotated[float, Range(0.5, 0.999999)] = 0.9999
    """Stop when an all-inlier sample was drawn with this probability (poselib only; the published method keeps 0.99)."""
    max_error_px: Annotated[float, Range(0.1, 200.0, "px")] = 8.0
    """A match is an inlier below this reprojection error, in the undistorted image."""
    min_inliers: Annotated[int, Range(4, 1_000_000)] = 6
    """No pose below this number of inliers."""
    refine: bool = True
    """Minimise the robust reprojection error over the inliers after RANSAC."""
    robust_scale_px: Annotated[float, Range(0.05, 100.0, "px")] = 2.0
    """Residuals well above this count less in the refinement (Cauchy loss)."""
    min_sigma_px: Annotated[float, Range(0.0, 100.0, "px")] = 0.5
    """The covariance never assumes measurements better than this."""
    seed: Annotated[int, Range(0, 2**31 - 1)] = 0
    """Seed of the sampling: equal input and seed give equal poses."""


@dataclass(frozen=True, eq=False)
class PnpSolution:
    """camera_from_object (4, 4) · covariance (6, 6) of a small motion in the camera frame (left perturbation), order (x, y, z, rot x, rot y, rot z)
    in m and rad · inliers (n,) bool over the given matches · reprojection_rms_px over the inliers, in the undistorted image · num_iterations of
    RANSAC (the bound, where the method does not tell)."""

    camera_from_object: NDArray[np.float64]
    covariance: NDArray[np.float64]
    inliers: NDArray[np.bool_]
    reprojection_rms_px: float
    num_iterations: int


def solve_pnp(points_px: NDArray, points_object: NDArray, camera: Camera, config: SolverConfig, score: NDArray | None = None) -> PnpSolution | None:
    """Pose of the object whose points (n, 3) in metres are seen at pixels (n, 2) of the (distorted) image; None when there is none.

    score (n,), higher is better: poselib then tries the best matches first (PROSAC). Matches that hold NaN or infinity, or lie where the lens
    model has no inverse, are never inliers. None: fewer than 4 usable matches, all object points on one line, fewer inliers than
    `config.min_inliers`, or inliers that leave the pose undetermined. Raises InputError when shapes do not fit.
    """
    points_px, points_object = np.asarray(points_px, np.float64), np.asarray(points_object, np.float64)
    _check_shapes(points_px, points_object, score)
    straight_px = np.asarray(camera_geometry.undistort_points(points_px, camera))
    usable = np.isfinite(straight_px).all(axis=1) & np.isfinite(points_object).all(axis=1)
    if usable.sum() < max(4, config.min_inliers) or _are_collinear(points_object[usable]):
        return None
    straight_px, points_object = np.where(usable[:, None], straight_px, 0.0), np.where(usable[:, None], points_object, 0.0)
    rows = np.flatnonzero(usable)
    if score is not None:
        rows = rows[np.argsort(-np.asarray(score)[rows], kind="stable")]
    search = _search_poselib if config.method == "poselib" else _search_opencv_epnp
    found = search(straight_px[rows], points_object[rows], camera, config, score is not None)
    if found is None:
        return None
    camera_from_object, num_iterations = found
    inliers = usable & (_errors_px(camera_from_object, straight_px, points_object, camera) <= config.max_error_px)
    if config.refine and inliers.sum() >= config.min_inliers:
        camera_from_object = _refined(camera_from_object, straight_px[inliers], points_object[inliers], camera, config)
        inliers = usable & (_errors_px(camera_from_object, straight_px, points_object, camera) <= config.max_error_px)
    if inliers.sum() < config.min_inliers:
        return None
    return _solution(camera_from_object, straight_px, points_object, inliers, num_iterations, camera, config)


def _check_shapes(points_px: NDArray, points_object: NDArray, score: NDArray | None) -> None:
    if points_px.ndim != 2 or points_px.shape[1] != 2:
        raise InputError(f"points_px has shape {points_px.shape}: must be (n, 2)")
    if points_object.shape != (len(points_px), 3):
        raise InputError(f"points_object has shape {points_object.shape}: must be ({len(points_px)}, 3), one for each pixel")
    if score is not None and np.shape(score) != (len(points_px),):
        raise InputError(f"score has shape {np.shape(score)}: must be ({len(points_px)},), one for each match")


def _are_collinear(points: NDArray) -> bool:
    spread = np.linalg.svd(points - points.mean(axis=0), compute_uv=False)
    return bool(spread[1] <= 1e-6 * spread[0])


def _poselib_camera(camera: Camera) -> dict:
    return {"model": "PINHOLE", "width": camera.width, "height": camera.height, "params": [camera.fx, camera.fy, camera.cx, camera.cy]}


def _search_poselib(
    straight_px: NDArray, points_object: NDArray, camera: Camera, config: SolverConfig, is_sorted: bool
) -> tuple[NDArray, int] | None:
    ransac = {
        "max_iterations": config.max_iterations,
        "min_iterations": min(config.min_iterations, config.max_iterations),
        "success_prob": config.confidence,
        "max_reproj_error": config.max_error_px,
        "seed": config.seed,
        "progressive_sampling": is_sorted,
        "max_prosac_iterations": config.max_iterations,
    }
    pose, report = poselib.estimate_absolute_pose(straight_px, points_object, _poselib_camera(camera), ransac, {})
    if report["num_inliers"] < 4:
        return None
    return se3.from_rotation_translation(pose.R, pose.t), int(report["iterations"])


def _search_opencv_epnp(
    straight_px: NDArray, points_object: NDArray, camera: Camera, config: SolverConfig, is_sorted: bool
) -> tuple[NDArray, int] | None:
    cv2.setRNGSeed(config.seed)
    found, rotation_vector, translation, inliers = cv2.solvePnPRansac(
        points_object * _PUBLISHED_SCALE,
        straight_px,
        camera.matrix,
        None,
        iterationsCount=config.max_iterations,
        reprojectionError=config.max_error_px,
        confidence=_PUBLISHED_CONFIDENCE,
        flags=cv2.SOLVEPNP_EPNP,
    )
    if not found or inliers is None:
        return None
    return se3.from_rotation_translation(so3.exp(rotation_vector[:, 0]), translation[:, 0] / _PUBLISHED_SCALE), config.max_iterations


def _refined(camera_from_object: NDArray, straight_px: NDArray, points_object: NDArray, camera: Camera, config: SolverConfig) -> NDArray:
    start = poselib.CameraPose()
    start.R, start.t = camera_from_object[:3, :3], camera_from_object[:3, 3]
    options = {"loss_type": "CAUCHY", "loss_scale": config.robust_scale_px, "max_iterations": 50}
    pose, _ = poselib.refine_absolute_pose(straight_px, points_object, start, _poselib_camera(camera), options)
    return se3.from_rotation_translation(pose.R, pose.t)


def _residuals_px(camera_from_object: NDArray, straight_px: NDArray, points_object: NDArray, camera: Camera) -> tuple[NDArray, NDArray]:
    """Residuals (n, 2) and the points in camera axes (n, 3)."""
    points = se3.transform_points(camera_from_object, points_object)
    with np.errstate(divide="ignore", invalid="ignore"):
        projected = points[:, :2] / points[:, 2:] * (camera.fx, camera.fy) + (camera.cx, camera.cy)
    return projected - straight_px, points


def _errors_px(camera_from_object: NDArray, straight_px: NDArray, points_object: NDArray, camera: Camera) -> NDArray:
    """Reprojection errors (n,); infinite behind the camera and where not finite."""
    residuals, points = _residuals_px(camera_from_object, straight_px, points_object, camera)
    errors = np.linalg.norm(residuals, axis=1)
    return np.where((points[:, 2] > 0) & np.isfinite(errors), errors, np.inf)


def _solution(
    camera_from_object: NDArray,
    straight_px: NDArray,
    points_object: NDArray,
    inliers: NDArray,
    num_iterations: int,
    camera: Camera,
    config: SolverConfig,
) -> PnpSolution | None:
    residuals, points = _residuals_px(camera_from_object, straight_px[inliers], points_object[inliers], camera)
    covariance = pose_covariance(residuals, points, camera, config.min_sigma_px)
    if covariance is None:
        return None
    rms = float(np.sqrt(np.mean(np.sum(residuals**2, axis=1))))
    return PnpSolution(camera_from_object, covariance, inliers, rms, num_iterations)


def pose_covariance(residuals_px: NDArray, points_camera: NDArray, camera: Camera, min_sigma_px: float) -> NDArray[np.float64] | None:
    """sigma^2 (J^T J)^-1, (6, 6) in m and rad, of a pose perturbed from the left by the twist (x, y, z, rot x, rot y, rot z).

    residuals_px (n, 2) at the optimum · points_camera (n, 3). sigma, the deviation of one pixel coordinate, is estimated from the residuals with
    2 n - 6 degrees of freedom and is at least `min_sigma_px`. None when the points do not determine all six numbers.
    """
    x, y, z = points_camera.T
    zero = np.zeros_like(z)
    pixel_by_point = np.stack(
        [np.stack([camera.fx / z, zero, -camera.fx * x / z**2], -1), np.stack([zero, camera.fy / z, -camera.fy * y / z**2], -1)], 1
    )
    jacobian = np.concatenate([pixel_by_point, -pixel_by_point @ so3.hat(points_camera)], axis=-1).reshape(-1, 6)
    variance = np.sum(residuals_px**2) / max(2 * len(z) - 6, 1)
    # Metres and radians differ in size: the columns are scaled before the rank is judged.
    scale = np.linalg.norm(jacobian, axis=0)
    if not (scale > 0).all():
        return None
    _, singular, basis = np.linalg.svd(jacobian / scale, full_matrices=False)
    if singular[-1] < 1e-9 * singular[0]:
        return None
    half = basis.T / singular / scale[:, None]
    return max(variance, min_sigma_px**2) * (half @ half.T)
