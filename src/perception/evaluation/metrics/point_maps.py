"""Accuracy, completion and normal consistency of predicted against true points, as reconstruction networks are scored on 7-Scenes, NRGBD and DTU.

The published way (yyfz/Pi3, branch evaluation, `mv_recon/eval.py`): best similarity of corresponding points, refinement by ICP, normals from the
nearest neighbours, nearest distances both ways. Open3D does the middle two there; here they are written out on SciPy's k-d tree.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from perception.core.errors import InputError
from perception.geometry import se3
from perception.geometry.alignment import umeyama

ICP_REACH = 0.1
"""Points farther than this from every true one do not take part in the refinement: metres, for rooms. DTU, in millimetres: 100."""
NUM_NEIGHBOURS = 30
_ICP_STEPS, _ICP_LEAST_CHANGE = 30, 1e-6


class PointScores(NamedTuple):
    """NaN where one side has no points.

    accuracy: mean distance from each predicted point to the nearest true one · completion: from each true one to the nearest predicted one; both in
    the unit of the points, lower is better · normal_accuracy, normal_completion: mean |cosine| between the normals of the same pairs, in [0, 1],
    higher is better, NaN without normals; their mean is the "normal consistency" (NC) · medians of all four.
    """

    accuracy: float
    accuracy_median: float
    completion: float
    completion_median: float
    normal_accuracy: float
    normal_accuracy_median: float
    normal_completion: float
    normal_completion_median: float


class IcpResult(NamedTuple):
    """target_from_source (4, 4) rigid · fitness: share of the source points with a target point within reach · rmse: over these, 0 without any."""

    target_from_source: NDArray[np.float64]
    fitness: float
    rmse: float


def reconstruction_scores(points: NDArray, true_points: NDArray, reach: float = ICP_REACH, num_neighbours: int = NUM_NEIGHBOURS) -> PointScores:
    """Scores of predicted points (n, 3) in any world and scale; true_points (n, 3) are those of the same pixels.

    Take pixels with a true point only, after the prediction was resized to the true image. Raises InputError where shapes differ, points are not
    finite, or lie on one line.
    """
    predicted, true = _checked(points, "points"), _checked(true_points, "true points")
    if predicted.shape != true.shape:
        raise InputError(f"reconstruction: points {predicted.shape} and true points {true.shape}; must be the same pixels' points, (n, 3)")
    if not len(true):
        return PointScores(*[float("nan")] * 8)
    aligned = se3.transform_points(umeyama(predicted, true, with_scale=True), predicted)
    aligned = se3.transform_points(icp(aligned, true, reach).target_from_source, aligned)
    return point_scores(aligned, true, normals_of_points(aligned, num_neighbours), normals_of_points(true, num_neighbours))


def point_scores(points: NDArray, true_points: NDArray, normals: NDArray | None = None, true_normals: NDArray | None = None) -> PointScores:
    """Scores of points (n, 3) that are already in the world of the true ones (m, 3), with unit normals of both or without."""
    predicted, true = _checked(points, "points"), _checked(true_points, "true points")
    if not (len(predicted) and len(true)):
        return PointScores(*[float("nan")] * 8)
    to_true, nearest_true = cKDTree(true).query(predicted)
    to_predicted, nearest_predicted = cKDTree(predicted).query(true)
    distances = to_true.mean(), np.median(to_true), to_predicted.mean(), np.median(to_predicted)
    if normals is None or true_normals is None:
        return PointScores(*map(float, distances), *[float("nan")] * 4)
    if normals.shape != predicted.shape or true_normals.shape != true.shape:
        raise InputError(f"normals {normals.shape} and {true_normals.shape}: must be as many as the points, {predicted.shape} and {true.shape}")
    forward = np.abs(np.sum(normals * true_normals[nearest_true], axis=-1))
    backward = np.abs(np.sum(true_normals * normals[nearest_predicted], axis=-1))
    return PointScores(*map(float, (*distances, forward.mean(), np.median(forward), backward.mean(), np.median(backward))))


def icp(source: NDArray, target: NDArray, reach: float, num_steps: int = _ICP_STEPS) -> IcpResult:
    """Rigid motion that refines an alignment: each source point to its nearest target point within `reach`, best motion of these pairs, again.

    Ends after num_steps, or once fitness and rmse change by less than 1e-6; steps and ends are Open3D's. Pairs on one line end it, too.
    """
    source, target = _checked(source, "source points"), _checked(target, "target points")
    if not reach > 0:
        raise InputError(f"icp: reach = {reach}; must be positive")
    tree, motion, moved = cKDTree(target), np.eye(4), source
    nearest, near, fitness, rmse = _pairs(tree, moved, reach)
    for _ in range(num_steps):
        if not near.any():
            break
        try:
            step = umeyama(moved[near], target[nearest[near]], with_scale=False)
        except InputError:
            break
        motion, moved = step @ motion, se3.transform_points(step, moved)
        last_fitness, last_rmse = fitness, rmse
        nearest, near, fitness, rmse = _pairs(tree, moved, reach)
        if abs(fitness - last_fitness) < _ICP_LEAST_CHANGE and abs(rmse - last_rmse) < _ICP_LEAST_CHANGE:
            break
    return IcpResult(motion, fitness, rmse)


def _pairs(tree: cKDTree, points: NDArray, reach: float) -> tuple[NDArray, NDArray, float, float]:
    distance, nearest = tree.query(points, distance_upper_bound=reach)
    near = np.isfinite(distance)
    rmse = float(np.sqrt(np.mean(distance[near] ** 2))) if near.any() else 0.0
    return nearest, near, float(near.mean()) if len(near) else 0.0, rmse


def normals_of_points(points: NDArray, num_neighbours: int = NUM_NEIGHBOURS) -> NDArray[np.float64]:
    """Unit normals (n, 3), of either sign, of points (n, 3): where the `num_neighbours` nearest points, itself included, spread least.

    With fewer than three neighbours: along z, as Open3D.
    """
    points = _checked(points, "points")
    count = min(num_neighbours, len(points))
    if count < 3:
        return np.tile([0.0, 0.0, 1.0], (len(points), 1))
    tree, normals = cKDTree(points), np.empty_like(points)
    for start in range(0, len(points), 65536):  # at most 50 MB of neighbours at a time
        part = slice(start, start + 65536)
        neighbours = points[tree.query(points[part], k=count)[1]]
        spread = neighbours - neighbours.mean(axis=1, keepdims=True)
        normals[part] = np.linalg.eigh(np.swapaxes(spread, 1, 2) @ spread)[1][:, :, 0]
    return normals


def _checked(points: NDArray, name: str) -> NDArray[np.float64]:
    points = np.asarray(points, np.float64)
    if points.ndim != 2 or points.shape[1] != 3 or not np.isfinite(points).all():
        raise InputError(f"{name} of shape {points.shape}: must be (n, 3) and finite")
    return points
