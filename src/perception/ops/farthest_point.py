"""Thinning of point sets to an even spread."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from perception.core.errors import InputError

# The exact selection runs over at most about this many candidates for each wanted point.
_CANDIDATES_PER_POINT = 3


def farthest_point_indices(points: NDArray, num: int, seed: int = 0) -> NDArray[np.int64]:
    """Indices (num,) of an even spread over `points` (n, 3): each next point is the one farthest from all chosen before; no index twice.

    The first point is drawn with `seed`. Up to 3 * num points the selection is exact, which leaves no point farther from a chosen one than
    twice the best possible radius (Gonzalez, 1985). Larger sets are first cut to between 1.5 * num and 3 * num points, one for each occupied
    voxel of edge h, so that the radius grows by at most sqrt(3) * h; h is found by bisection. Raises InputError when num > n or a point is
    not finite.
    """
    points = np.ascontiguousarray(points, dtype=np.float32)
    if points.ndim != 2 or points.shape[1] != 3:
        raise InputError(f"points have shape {points.shape}: must be (n, 3)")
    if not 0 <= num <= len(points):
        raise InputError(f"num = {num}: must lie between 0 and the number of points, {len(points)}")
    if not np.isfinite(points).all():
        raise InputError(f"{(~np.isfinite(points).all(axis=1)).sum()} of {len(points)} points are NaN or infinite: drop them before thinning")
    if num == 0:
        return np.empty(0, np.int64)
    candidates = _voxel_candidates(points, num)
    return candidates[_select(points[candidates], num, int(np.random.default_rng(seed).integers(len(candidates))))]


def _select(points: NDArray[np.float32], num: int, first: int) -> NDArray[np.int64]:
    """Exact farthest-point selection: one pass over the points for each chosen one."""
    x, y, z = np.ascontiguousarray(points.T)
    nearest = np.full(len(points), np.inf, np.float32)
    distance, term = np.empty_like(nearest), np.empty_like(nearest)
    chosen = np.empty(num, np.int64)
    index = first
    for i in range(num):
        chosen[i] = index
        np.subtract(x, x[index], out=distance)
        distance *= distance
        for axis in (y, z):
            np.subtract(axis, axis[index], out=term)
            term *= term
            distance += term
        np.minimum(nearest, distance, out=nearest)
        nearest[index] = -1.0  # a duplicate of a chosen point may be chosen later, the point itself never
        index = int(nearest.argmax())
    return chosen


def _voxel_candidates(points: NDArray[np.float32], num: int) -> NDArray[np.int64]:
    """One point for each occupied voxel, the voxels as large as leaves at least 1.5 * num of them; all points where there are few."""
    if len(points) <= _CANDIDATES_PER_POINT * num:
        return np.arange(len(points))
    low, extent = points.min(axis=0), float(np.ptp(points, axis=0).max())
    # At most 2^20 voxels along each axis, so that three indices fit one 64-bit key.
    smallest, largest = max(extent * 2.0**-20, 1e-12), max(extent, 1e-9)
    kept = np.arange(len(points))
    for _ in range(40):
        edge = (smallest * largest) ** 0.5
        _, candidates = np.unique(_voxel_keys(points, low, edge), return_index=True)
        if len(candidates) < 1.5 * num:
            largest = edge
        else:
            smallest, kept = edge, candidates
            if len(candidates) <= _CANDIDATES_PER_POINT * num:
                break
    return kept


def _voxel_keys(points: NDArray[np.float32], low: NDArray[np.float32], edge: float) -> NDArray[np.int64]:
    cell = ((points - low) / edge).astype(np.int64)
    return (cell[:, 0] << 42) | (cell[:, 1] << 21) | cell[:, 2]
