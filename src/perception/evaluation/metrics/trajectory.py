"""Errors of camera trajectories: absolute after an alignment (ATE, APE) and relative over a step (RPE), as defined by Sturm et al. (IROS 2012).

Numbers agree with those of the tool `evo`, which Pi3, CUT3R and MonST3R report. Poses are world_from_camera (n, 4, 4) with rotations, both
trajectories with the same frames; lengths are in the unit of the true one.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from perception.core.errors import InputError
from perception.geometry import se3, so3
from perception.geometry.alignment import similarity_scale, umeyama

Alignment = Literal["none", "rigid", "similarity", "scale", "first_pose"]
"""How the estimate is moved onto the truth first: not at all, by the best rigid motion or similarity of the camera positions (Umeyama), by that
similarity's scale alone, or so that the first poses agree."""


class PoseErrors(NamedTuple):
    """Lower is better; one for each frame (APE) or pair of frames (RPE).

    translation: length of the difference · distance: of the distances between the positions of a pair; for single frames as translation ·
    rotation_deg: angle in degrees, in [0, 180] · rotation_chordal: Frobenius norm of (error rotation - identity), in [0, 2 sqrt 2] ·
    transformation: Frobenius norm of (error matrix 4 x 4 - identity), mixes unit of length and rotation.
    """

    translation: NDArray[np.float64]
    distance: NDArray[np.float64]
    rotation_deg: NDArray[np.float64]
    rotation_chordal: NDArray[np.float64]
    transformation: NDArray[np.float64]


class ErrorStatistics(NamedTuple):
    """Of a list of errors, in their unit (sum_of_squares: squared); NaN for an empty list. std: over n, not n - 1."""

    rmse: float
    mean: float
    median: float
    std: float
    min: float
    max: float
    sum_of_squares: float


class TrajectoryScores(NamedTuple):
    """Root mean squares, lower is better. ate: absolute translation · rpe_translation, rpe_rotation_deg: over pairs of frames."""

    ate: float
    rpe_translation: float
    rpe_rotation_deg: float


def trajectory_scores(
    world_from_camera: NDArray, true_world_from_camera: NDArray, alignment: Alignment = "similarity", step: int = 1
) -> TrajectoryScores:
    """ATE, and RPE over `step` frames, of one sequence as Pi3 and CUT3R report them; both average over sequences. RPE is NaN without a pair.

    Raises InputError as `aligned_trajectory`.
    """
    aligned = aligned_trajectory(world_from_camera, true_world_from_camera, alignment)
    relative = relative_pose_errors(aligned, true_world_from_camera, pairs_by_frames(len(aligned), step))
    return TrajectoryScores(
        error_statistics(absolute_pose_errors(aligned, true_world_from_camera).translation).rmse,
        error_statistics(relative.translation).rmse,
        error_statistics(relative.rotation_deg).rmse,
    )


def aligned_trajectory(world_from_camera: NDArray, true_world_from_camera: NDArray, alignment: Alignment) -> NDArray[np.float64]:
    """Estimated poses (n, 4, 4), moved onto the true ones; their rotations stay rotations.

    Raises InputError where shapes do not fit, poses are not finite, or camera positions lie on one line or in one point while their best motion is
    asked for.
    """
    estimated, true = _checked(world_from_camera, true_world_from_camera)
    if alignment == "none":
        return estimated
    if alignment == "first_pose":
        return true[0] @ se3.inverse(estimated[0]) @ estimated
    if alignment not in ("rigid", "similarity", "scale"):
        raise InputError(f"alignment {alignment!r}: must be one of none, rigid, similarity, scale, first_pose")
    motion = umeyama(estimated[:, :3, 3], true[:, :3, 3], with_scale=alignment != "rigid")
    scale = similarity_scale(motion)
    scaled = estimated.copy()
    scaled[:, :3, 3] *= scale
    if alignment == "scale":
        return scaled
    return se3.from_rotation_translation(motion[:3, :3] / scale, motion[:3, 3]) @ scaled


def absolute_pose_errors(world_from_camera: NDArray, true_world_from_camera: NDArray) -> PoseErrors:
    """Errors (n,) of each pose against its true one; align the trajectory first."""
    estimated, true = _checked(world_from_camera, true_world_from_camera)
    errors = _errors(se3.inverse(true) @ estimated)
    return errors._replace(distance=errors.translation)


def relative_pose_errors(world_from_camera: NDArray, true_world_from_camera: NDArray, pairs: NDArray) -> PoseErrors:
    """Errors (m,) of the motions between pairs of frames, pairs (m, 2) of frame numbers as from `pairs_by_frames` and `pairs_by_path`."""
    estimated, true = _checked(world_from_camera, true_world_from_camera)
    first, second = np.asarray(pairs, np.int64).reshape(-1, 2).T
    motion, true_motion = (se3.inverse(poses[first]) @ poses[second] for poses in (estimated, true))
    length, true_length = (np.linalg.norm(poses[second, :3, 3] - poses[first, :3, 3], axis=-1) for poses in (estimated, true))
    return _errors(se3.inverse(true_motion) @ motion)._replace(distance=np.abs(length - true_length))


def _errors(difference: NDArray) -> PoseErrors:
    translation = np.linalg.norm(difference[:, :3, 3], axis=-1)
    return PoseErrors(
        translation,
        translation,
        np.degrees(so3.rotation_angle(difference[:, :3, :3])),
        np.linalg.norm(difference[:, :3, :3] - np.eye(3), axis=(-2, -1)),
        np.linalg.norm(difference - np.eye(4), axis=(-2, -1)),
    )


def pairs_by_frames(num_frames: int, step: int, *, overlapping: bool = True) -> NDArray[np.int64]:
    """Pairs (m, 2) of frames `step` apart: starting at every frame, or (not overlapping) each where the last one ended. Empty for too few frames."""
    if step < 1:
        raise InputError(f"pairs of frames: step = {step}; must be at least 1")
    first = np.arange(0, num_frames - step, 1 if overlapping else step)
    return np.stack([first, first + step], axis=-1)


def pairs_by_path(world_from_camera: NDArray, length: float) -> NDArray[np.int64]:
    """Pairs (m, 2), each starting where the last one ended and reaching to the first frame by which the camera has gone at least `length`.

    world_from_camera: the poses whose path is measured, usually the estimated ones after alignment.
    """
    if not length > 0:
        raise InputError(f"pairs by path: length = {length}; must be positive")
    steps = np.linalg.norm(np.diff(np.asarray(world_from_camera, np.float64)[:, :3, 3], axis=0), axis=-1)
    ends, gone = [0], 0.0
    for frame, step in enumerate(steps, start=1):
        gone += step
        if gone >= length:
            ends.append(frame)
            gone = 0.0
    return np.stack([ends[:-1], ends[1:]], axis=-1).astype(np.int64)


def error_statistics(errors: NDArray) -> ErrorStatistics:
    """Statistics of errors (n,)."""
    errors = np.asarray(errors, np.float64)
    if not errors.size:
        return ErrorStatistics(*[float("nan")] * 7)
    squares = np.square(errors)
    values = (np.sqrt(squares.mean()), errors.mean(), np.median(errors), errors.std(), errors.min(), errors.max(), squares.sum())
    return ErrorStatistics(*map(float, values))


def _checked(estimated: NDArray, true: NDArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    estimated, true = np.asarray(estimated, np.float64), np.asarray(true, np.float64)
    if estimated.shape != true.shape or estimated.ndim != 3 or estimated.shape[1:] != (4, 4) or not len(true):
        raise InputError(f"trajectories: estimated {estimated.shape} and true {true.shape}; both must be (frames, 4, 4) with at least one frame")
    if not (np.isfinite(estimated).all() and np.isfinite(true).all()):
        raise InputError("trajectories: all poses must be finite; leave out frames without a pose on both sides")
    return _with_true_rotations(estimated), _with_true_rotations(true)


def _with_true_rotations(poses: NDArray) -> NDArray[np.float64]:
    """Rotations that were stored in float32 are rotations only to 1e-7: the nearest ones are taken, as trajectory files are written."""
    try:
        return se3.from_rotation_translation(Rotation.from_matrix(poses[:, :3, :3]).as_matrix(), poses[:, :3, 3])
    except ValueError as error:
        raise InputError(f"trajectories: a pose has no rotation in its upper left 3x3 ({error})") from error
