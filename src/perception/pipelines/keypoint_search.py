"""Where in a frame an object's keypoints are found again: first guesses of its pose, at any roll and size.

Every match gives a whole pose by itself, as both keypoints have a place, a size and a direction. Matches that agree with one of these poses are a
group (Lowe, IJCV 2004, section 7.3, who counts poses in bins; here each pose is a bin of its own), and the pose is solved from each group. Few
matches that agree are found so among many that do not, where RANSAC over all of them at once gives up.
"""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from perception.core.types import Camera, Frame
from perception.geometry.camera import project, unproject
from perception.geometry.pnp import SolverConfig, solve_pnp
from perception.ops.sift_keypoints import Keypoints, detect_keypoints, match_by_ratio
from perception.pipelines.object_keypoints import ObjectKeypoints
from perception.pipelines.zoomed_view import axis_towards, turned_about_axis

_MAX_RATIO = 0.85
_APART = 0.05
"""Keypoints nearer to each other, as a share of the object's diagonal, are not told apart."""
_AGREE = 0.07
"""A match agrees with a pose when that puts it so near to where it is seen, as a share of the object's diagonal in the frame."""
_MAX_GROUPS = 12
_MAX_MATCHES = 1_000
"""Those that are most alike; every one is compared with every other."""


class FrameKeypoints:
    """A frame, whose keypoints are detected when they are first asked for: by all objects once."""

    def __init__(self, frame: Frame) -> None:
        self.frame = frame

    @cached_property
    def keypoints(self) -> Keypoints:
        """On the frame's mask, if it has one."""
        return detect_keypoints(self.frame.image, self.frame.mask)


class _Poses(NamedTuple):
    """Rotations (num, 3, 3) and translations (num, 3) of the object in the camera."""

    rotations: NDArray[np.float64]
    translations: NDArray[np.float64]

    def transform(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Points (m, 3) as each of the poses puts them (num, m, 3)."""
        return np.einsum("nij,mj->nmi", self.rotations, points) + self.translations[:, None]


def find_keypoints(known: ObjectKeypoints, frame: FrameKeypoints, solver: SolverConfig) -> list[NDArray[np.float64]]:
    """Poses camera_from_object (4, 4) of an object, that with most inliers first; none where too few keypoints agree. The frame needs a camera."""
    camera = frame.frame.camera
    assert camera is not None
    points = known.points.double().numpy()
    bounds = np.quantile(points, [0.001, 0.999], axis=0)
    diagonal_m = float(np.linalg.norm(bounds[1] - bounds[0]))
    matches = match_by_ratio(frame.keypoints.descriptors, known.descriptors.float(), points, _MAX_RATIO, _APART * diagonal_m)
    best = np.sort(np.argsort(-matches.score, kind="stable")[:_MAX_MATCHES])
    queries, references = matches.query_index[best], matches.reference_index[best]
    seen_px, on_object = frame.keypoints.points_px[queries], points[references]
    poses = _pose_of_each(known, references, frame.keypoints, queries, camera)
    near_px = _AGREE * _size_px(poses, bounds.mean(axis=0), diagonal_m, camera)
    agrees = _agreeing(poses, seen_px, on_object, camera, near_px)
    # A pose nearby forgives more: matches that lie anywhere agree with it by chance.
    by_chance = np.minimum(np.pi * near_px**2 / (camera.width * camera.height), 1.0) * len(queries)
    found = []
    for group in _groups(agrees, by_chance, solver.min_inliers):
        solution = solve_pnp(seen_px[group], on_object[group], camera, solver)
        if solution is not None:
            found.append((int(solution.inliers.sum()), solution.camera_from_object))
    return [pose for _, pose in sorted(found, key=lambda item: -item[0])]


def _pose_of_each(known: ObjectKeypoints, references: NDArray[np.int64], seen: Keypoints, queries: NDArray[np.int64], camera: Camera) -> _Poses:
    """The pose that each match says: the object turned as at the reference keypoint, and so far away that its size is that of the query."""
    depth_m = known.sizes_m.double().numpy()[references] * camera.fx / seen.sizes_px[queries]
    at = np.asarray(unproject(seen.points_px[queries], depth_m, camera), np.float64).reshape(-1, 3)
    straight = axis_towards(at / np.linalg.norm(at, axis=1, keepdims=True))
    turned = turned_about_axis(seen.angles_rad[queries]) @ known.upright_from_object.double().numpy()[references]
    rotations = np.swapaxes(straight, 1, 2) @ turned
    return _Poses(rotations, at - np.einsum("nij,nj->ni", rotations, known.points.double().numpy()[references]))


def _size_px(poses: _Poses, middle: NDArray[np.float64], diagonal_m: float, camera: Camera) -> NDArray[np.float64]:
    """How large the object is in the frame (num,), 0 behind the camera."""
    depth_m = poses.transform(middle[None])[:, 0, 2]
    return np.asarray(diagonal_m * camera.fx / np.where(depth_m > 0, depth_m, np.inf))


def _agreeing(
    poses: _Poses, seen_px: NDArray[np.float64], on_object: NDArray[np.float64], camera: Camera, near_px: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Whether pose n puts match m within `near_px` (num,) of where it is seen (num, num)."""
    in_camera = poses.transform(on_object)
    in_front = in_camera[..., 2] > 0
    expected_px = np.asarray(project(np.where(in_front[..., None], in_camera, [0.0, 0.0, 1.0]), camera))
    return np.asarray(in_front & (np.linalg.norm(expected_px - seen_px, axis=2) < near_px[:, None]))


def _groups(agrees: NDArray[np.bool_], by_chance: NDArray[np.float64], least: int) -> list[NDArray[np.int64]]:
    """Rows of matches that agree with one pose, first the group that is largest beyond what is so by chance; each match is in one group."""
    groups: list[NDArray[np.int64]] = []
    left = np.ones(len(agrees), bool)
    while len(groups) < _MAX_GROUPS:
        counts = (agrees & left).sum(axis=1)
        surplus = np.where(counts >= least, counts - by_chance * left.mean(), -np.inf) if left.any() else np.zeros(0)
        if not len(surplus) or not np.isfinite(surplus).any():
            break
        best = int(surplus.argmax())
        groups.append(np.flatnonzero(agrees[best] & left))
        left &= ~agrees[best]
    return groups
