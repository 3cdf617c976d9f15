"""How far an estimated pose is from the true one. Poses are `camera_from_object` (..., 4, 4) in metres, with any batch dimensions.

Frames without an estimate enter as errors of infinity, so that refusing to answer never raises a score.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from perception.core.errors import InputError
from perception.geometry import se3

Position = Literal["object", "camera"]
"""Whose position is compared: the object's in the camera frame, or the camera's in the object frame (usual where a whole scene is the object)."""

THRESHOLDS: tuple[tuple[float, float], ...] = ((1.0, 1.0), (3.0, 3.0), (5.0, 5.0))
"""The usual pairs of (degrees, centimetres): 1cm-1deg, 3cm-3deg, 5cm-5deg."""


def rotation_error_deg(estimated: NDArray, true: NDArray) -> NDArray[np.float64]:
    """Angle of the rotation between both poses, degrees in [0, 180], lower is better; shape (...). Source: OnePose++ `query_pose_error`.

    By the arc cosine of the trace, as published: poses made to lie on a threshold then fall on the same side. Exact to 1e-6 deg.
    """
    estimated, true = np.asarray(estimated, np.float64), np.asarray(true, np.float64)
    trace = np.trace(estimated[..., :3, :3] @ np.swapaxes(true[..., :3, :3], -1, -2), axis1=-2, axis2=-1)
    return np.degrees(np.arccos(np.clip((trace - 1.0) / 2.0, -1.0, 1.0)))


def translation_error_cm(estimated: NDArray, true: NDArray, position: Position = "object") -> NDArray[np.float64]:
    """Distance between both positions, centimetres, lower is better; shape (...).

    Source: OnePose++ `query_pose_error` for "object"; 7-Scenes (Shotton et al., CVPR 2013) for "camera".
    """
    estimated, true = np.asarray(estimated, np.float64), np.asarray(true, np.float64)
    if position == "camera":
        estimated, true = se3.inverse(estimated), se3.inverse(true)
    return 100.0 * np.linalg.norm(estimated[..., :3, 3] - true[..., :3, 3], axis=-1)


def pose_error(estimated: NDArray | None, true: NDArray, symmetries: Sequence[NDArray] = (), position: Position = "object") -> tuple[float, float]:
    """Rotation error in degrees and translation error in centimetres of one pose (4, 4); (inf, inf) when there is no estimate.

    symmetries: motions (4, 4) in the object's frame that leave it looking the same, the identity is always among them. Both errors are
    taken against the equivalent true pose that is nearest in rotation, at equal angles (within 1e-6 deg) in translation.
    """
    if estimated is None:
        return np.inf, np.inf
    equivalent = np.asarray(true, np.float64) @ np.stack([np.eye(4), *symmetries])
    rotation_deg = rotation_error_deg(estimated, equivalent)
    translation_cm = translation_error_cm(estimated, equivalent, position)
    nearest = np.lexsort((translation_cm, np.round(rotation_deg, 6)))[0]
    return float(rotation_deg[nearest]), float(translation_cm[nearest])


def pose_recall(rotation_deg: NDArray, translation_cm: NDArray, thresholds: Sequence[tuple[float, float]] = THRESHOLDS) -> NDArray[np.float64]:
    """Share of frames whose rotation and translation error both lie below (strictly) each pair (degrees, centimetres).

    In [0, 1], higher is better; one value for each threshold, NaN when there are no frames. Errors that are infinite or NaN count as
    misses. Source: OnePose++ `aggregate_metrics`.
    """
    rotation_deg, translation_cm = np.asarray(rotation_deg, np.float64), np.asarray(translation_cm, np.float64)
    if rotation_deg.shape != translation_cm.shape or rotation_deg.ndim != 1:
        raise InputError(f"pose_recall: errors of shapes {rotation_deg.shape} and {translation_cm.shape}; must be two lists of equal length")
    if not len(rotation_deg):
        return np.full(len(thresholds), np.nan)
    return np.array([((rotation_deg < max_deg) & (translation_cm < max_cm)).mean() for max_deg, max_cm in thresholds])


def median_error(errors: NDArray) -> float:
    """Median in the unit of `errors`, lower is better. Infinite when half of the frames or more were missed (inf), NaN when there are no frames."""
    errors = np.asarray(errors, np.float64)
    return float(np.median(errors)) if errors.size else float("nan")


def add_error_m(estimated: NDArray, true: NDArray, points_object: NDArray) -> float:
    """ADD: mean distance between the model's points under both poses, metres, lower is better. points_object (num, 3), at least one.

    Source: Hinterstoisser et al., ACCV 2012.
    """
    at_estimate, at_truth = _model_points(estimated, true, points_object)
    return float(np.linalg.norm(at_estimate - at_truth, axis=1).mean())


def adi_error_m(estimated: NDArray, true: NDArray, points_object: NDArray) -> float:
    """ADI (ADD-S), for symmetric objects: mean distance from each point under the true pose to the nearest one under the estimated pose, metres.

    Lower is better. points_object (num, 3), at least one. Source: Hinterstoisser et al., ACCV 2012.
    """
    at_estimate, at_truth = _model_points(estimated, true, points_object)
    return float(cKDTree(at_estimate).query(at_truth)[0].mean())


def _model_points(estimated: NDArray, true: NDArray, points_object: NDArray) -> tuple[NDArray, NDArray]:
    points = np.asarray(points_object, np.float64)
    if points.ndim != 2 or points.shape[1] != 3 or not len(points):
        raise InputError(f"model points have shape {points.shape}; must be (num, 3) with at least one point")
    return se3.transform_points(np.asarray(estimated, np.float64), points), se3.transform_points(np.asarray(true, np.float64), points)
